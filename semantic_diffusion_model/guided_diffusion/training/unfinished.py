"""What killed saves and lost files leave in savedir: never taken for an empty folder, never written over.

While a checkpoint is written or pruned, a hidden file names its files. So weights without a state are of two kinds:
those of a save that was killed, which the next run deletes, and those whose state is lost, which are somebody's work.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from command import UserError
from guided_diffusion.runs import storage
from guided_diffusion.runs.checkpoints import SETTINGS_FILE, WEIGHTS_NAME, choose_file
from guided_diffusion.training.run_log import LOG_FILES

STATE_NAME = re.compile(r"opt(?P<step>\d{6,})\.pt")
PREVIEW_NAME = re.compile(r"preview_\d{6,}\.png")
SAVING = ".saving"
MOST_NAMES_TOLD = 3


def announce(folder: str, names: Sequence[str]) -> None:
    """Note that the files `names` are about to be written, or deleted: a checkpoint's weights and its state."""
    text = json.dumps(list(names))
    storage.write_whole(storage.join(folder, SAVING), lambda temporary: Path(temporary).write_text(text))


def finished(folder: str) -> None:
    """Nothing is left to do of what was announced."""
    storage.remove(storage.join(folder, SAVING))


def prune(folder: str, newest: int, keep: int) -> None:
    """Of the checkpoints up to step `newest`, just written, delete all but the last `keep` (0: none); end the save."""
    listed = storage.list_names(folder) if keep > 0 else []
    steps = [step for name in listed if not _is_weights(name) and (step := _step_of(name)) is not None]
    old = sorted((step for step in steps if step <= newest), reverse=True)[keep:]
    if old:
        announce(folder, [name for name in listed if _step_of(name) in (newest, *old)])
    # The states first: from then on a checkpoint is not complete, whatever happens.
    for name in sorted((name for name in listed if _step_of(name) in old), key=_is_weights):
        storage.remove(storage.join(folder, name))
    finished(folder)


def settle(folder: str, keep: int, is_complete: Callable[[int], bool], say: Callable[[str], object]) -> None:
    """End the save in which a run was killed: delete the files of checkpoints without a state, prune the others.

    A save that had not begun to replace a damaged checkpoint of its step is not complete, and prunes nothing.
    """
    marker = storage.join(folder, SAVING)
    if not storage.exists(marker):
        return
    with storage.open_for_reading(marker) as file:
        names = _checkpoint_names(file.read())
    left = [name for name in names if storage.exists(storage.join(folder, name))]
    with_state = {_step_of(name) for name in left if not _is_weights(name)}
    torn = [name for name in left if _step_of(name) not in with_state]
    for name in torn:
        storage.remove(storage.join(folder, name))
    if torn:
        say(f"removed {', '.join(torn)}: the run was killed while it wrote or pruned them")
    newest = max(filter(None, map(_step_of, names)), default=None)
    if newest in with_state and is_complete(newest):
        prune(folder, newest, keep)
    finished(folder)


def _checkpoint_names(text: bytes) -> list[str]:
    """The names in a marker that are those of checkpoint files: nothing else in the folder is ever deleted."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str) and _step_of(name) is not None]


def _step_of(name: str) -> int | None:
    match = WEIGHTS_NAME.fullmatch(name) or STATE_NAME.fullmatch(name)
    return int(match["step"]) if match else None


def _is_weights(name: str) -> bool:
    return STATE_NAME.fullmatch(name) is None


def strays(folder: str, start: int | None) -> list[str]:
    """The files that a run going on from step `start` (None: from nothing) would write over, though it did not write
    them: without a `start` all of checkpoints, else weights of a later step that have no state beside them.
    """
    if not storage.is_folder(folder):
        return []
    steps = {name: step for name in storage.list_names(folder) if (step := _step_of(name)) is not None}
    if start is None:
        return list(steps)
    with_state = {step for name, step in steps.items() if not _is_weights(name)}
    return [name for name, step in steps.items() if step > start and step not in with_state]


def refuse_strays(folder: str, start: int | None) -> None:
    """Raise UserError for weights whose state is missing or unusable."""
    names = strays(folder, start)
    if not names:
        return
    more = f" and {len(names) - MOST_NAMES_TOLD} more" if len(names) > MOST_NAMES_TOLD else ""
    told = ", ".join(names[:MOST_NAMES_TOLD]) + more
    weights = [name for name in names if WEIGHTS_NAME.fullmatch(name)]
    start_from = f" (with --resume_checkpoint {storage.join(folder, weights[-1])})" if weights else ""
    raise UserError(
        f"{folder} holds {told} without a usable state (opt*.pt and all files that belong to it), and a training from "
        f"step {start or 0} would write over them: put the missing files back, or give another --savedir{start_from}, "
        "or --overwrite True to delete them"
    )


def refuse_foreign(folder: str) -> None:
    """Raise UserError where a training that begins would replace files that no training of ours has written: without
    the log of one (which on object storage may come later)."""
    if storage.is_remote(folder) or not storage.is_folder(folder):
        return
    there = set(storage.list_names(folder))
    theirs = sorted(name for name in there if name == SETTINGS_FILE or PREVIEW_NAME.fullmatch(name))
    if theirs and not there & set(LOG_FILES):
        raise UserError(
            f"{storage.join(folder, theirs[0])} is there, but no log of a training: give another --savedir, or "
            "--overwrite True to replace it and what else has the same names"
        )


def refuse_deleting(folder: str, start: int | None, path: str) -> None:
    """Raise UserError if `path`, the weights to begin from, is among what `remove_strays` would delete."""
    if not path:
        return
    with contextlib.suppress(UserError):  # what is wrong with it is told where it is read
        path, _ = choose_file(path)
    doomed = {os.path.realpath(storage.join(folder, name)) for name in strays(folder, start)}
    if os.path.realpath(path) in doomed:
        raise UserError(
            f"--overwrite True would delete {path}, from which --resume_checkpoint is to start: give another --savedir"
        )


def remove_strays(folder: str, start: int | None) -> None:
    """Delete what `refuse_strays` would refuse, the states first."""
    for name in sorted(strays(folder, start), key=_is_weights):
        storage.remove(storage.join(folder, name))
