"""What killed saves and lost files leave in savedir: never taken for an empty folder, never written over.

While a checkpoint is written, a hidden file names its files. So weights without a state are of two kinds: those of a
save that was killed, which the next run deletes, and those whose state is lost, which are somebody's work.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from command import UserError
from guided_diffusion.runs import storage
from guided_diffusion.runs.checkpoints import WEIGHTS_NAME

STATE_NAME = re.compile(r"opt(?P<step>\d{6,})\.pt")
SAVING = ".saving"
MOST_NAMES_TOLD = 3


def announce(folder: str, names: Sequence[str]) -> None:
    """Note that the files `names` are about to be written; they belong together, the last is the state."""
    text = json.dumps(list(names))
    storage.write_whole(storage.join(folder, SAVING), lambda temporary: Path(temporary).write_text(text))


def finished(folder: str) -> None:
    """What was announced is written."""
    storage.remove(storage.join(folder, SAVING))


def remove_killed_save(folder: str, say: Callable[[str], object]) -> None:
    """Delete the files of a checkpoint that was being written when its run was killed."""
    marker = storage.join(folder, SAVING)
    if not storage.exists(marker):
        return
    with storage.open_for_reading(marker) as file:
        names = _checkpoint_names(file.read())
    if not any(STATE_NAME.fullmatch(name) and storage.exists(storage.join(folder, name)) for name in names):
        left = [name for name in names if storage.exists(storage.join(folder, name))]
        for name in left:
            storage.remove(storage.join(folder, name))
        if left:
            say(f"removed {', '.join(left)}: the run was killed while it wrote this checkpoint")
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


def strays(folder: str, start: int | None) -> list[str]:
    """The files that a run going on from step `start` (None: from nothing) would write over, though it did not write
    them: without a `start` all of checkpoints, else weights of a later step that have no state beside them.
    """
    if not storage.is_folder(folder):
        return []
    steps = {name: step for name in storage.list_names(folder) if (step := _step_of(name)) is not None}
    if start is None:
        return list(steps)
    with_state = {step for name, step in steps.items() if STATE_NAME.fullmatch(name)}
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


def remove_strays(folder: str, start: int | None) -> None:
    """Delete what `refuse_strays` would refuse, the states first."""
    for name in sorted(strays(folder, start), key=lambda name: STATE_NAME.fullmatch(name) is None):
        storage.remove(storage.join(folder, name))
