"""The weights that a run began from: a run that goes on does not read them, and refuses to be given others."""

import os

from command import UserError
from config import Settings
from guided_diffusion.runs import checkpoints, storage
from schema import Record


class Beginning(Record):
    """The --resume_checkpoint that a run began with ("": none), and the SHA-256 of the file ("": not known)."""

    path: str = ""
    sha256: str = ""


def refuse_other_start(settings: Settings, beginning: Beginning, step: int, before: str) -> None:
    """Raise UserError for a --resume_checkpoint that the run in savedir neither began from nor has reached at `step`.

    It would not be read. Weights are known by their content; where either file is not there any more, by its name and
    its folder's: the whole path may change. `before`: that of the run's last command, which may have been its own.
    """
    given = settings.resume_checkpoint
    if not given or _same(given, settings.savedir) or _is_that(beginning, given):
        return
    if _lies_in(given, settings.savedir):
        match = checkpoints.WEIGHTS_NAME.fullmatch(os.path.basename(given))
        reached = int(match["step"]) if match and storage.exists(given) else None
        if reached == step or (match and _place(given) == _place(before)):
            return
        if reached is not None and reached < step:
            raise UserError(
                f"--resume_checkpoint {given}: the run in {settings.savedir} has gone on to step {step}. To go back, "
                "give another --savedir, or delete its later checkpoints"
            )
    raise UserError(
        f"--resume_checkpoint {given} would not be read: the run in {settings.savedir} goes on from its own step "
        f"{step}. Give another --savedir to start from it"
    )


def _is_that(beginning: Beginning, given: str) -> bool:
    if not beginning.path:
        return False
    if _same(given, beginning.path):
        return True
    try:
        file, _ = checkpoints.choose_file(given)
    except UserError:  # it is gone
        file = None
    if file is None or not beginning.sha256:
        return _place(given) == _place(beginning.path)
    return storage.sha256_of(file) == beginning.sha256


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _lies_in(path: str, folder: str) -> bool:
    return _same(os.path.dirname(path) or ".", folder)


def _place(path: str) -> list[str]:
    return os.path.normpath(path).split(os.sep)[-2:]
