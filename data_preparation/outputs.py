"""Output folders that appear whole or not at all.

A command names the folders it is going to make. They are built in a hidden folder beside their places and renamed when
all is done: an interrupted or failed run leaves what was there before. Folders that exist already are refused, unless
the user says overwrite: then they are replaced, as a whole, so that no folder ever holds files of two runs.
"""

import contextlib
import errno
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from command import DISK_ERRORS, UMASK, UserError


@contextlib.contextmanager
def new_folders(parent: Path, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A temporary folder in `parent`; its entries called `names` move into `parent` when the block ends well.

    Entries that the block does not make are left out. Raises UserError if one of `names` exists (as anything but an
    empty folder) and `overwrite` is False, or the disk is full.
    """
    parent = Path(parent)
    if parent.exists() and not parent.is_dir():
        raise UserError(f"{parent} is not a folder")
    existing = [name for name in names if _occupied(parent / name)]
    if existing and not overwrite:
        raise UserError(
            f"{parent} already holds {', '.join(existing)}: choose another folder, or --overwrite True to replace them"
        )
    parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    building.chmod(0o777 & ~UMASK)
    try:
        with _terminated_like_interrupted():
            yield building
            _move(building, parent, names, overwrite)
    except BaseException as error:
        if not any(building.glob("replaced-*/*")):  # what could not be put back is not deleted either
            shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (*DISK_ERRORS, errno.ENOENT):  # a write does not say of what
            raise UserError(f"{error.filename or parent} cannot be written: {error.strerror}") from None
        raise
    shutil.rmtree(building, ignore_errors=True)


def _move(building: Path, parent: Path, names: Sequence[str], overwrite: bool) -> None:
    """First all old folders out of the way, then all new ones in; if one cannot be moved, all go back."""
    old = Path(tempfile.mkdtemp(prefix="replaced-", dir=building))
    moves: list[tuple[Path, Path]] = []
    try:
        for name in names:
            if overwrite and _occupied(parent / name):
                moves.append((parent / name, old / name))
                moves[-1][0].rename(moves[-1][1])
        for name in names:
            if (building / name).exists():
                moves.append((building / name, parent / name))
                moves[-1][0].rename(moves[-1][1])
    except BaseException as error:
        for source, target in reversed(moves):
            if target.exists() and not source.exists():
                target.rename(source)
        if not isinstance(error, OSError):
            raise
        place = moves[-1][0] if moves[-1][0].parent == parent else moves[-1][1]
        appeared = error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
        why = "appeared while this command ran" if appeared else f"cannot be replaced ({error.strerror})"
        raise UserError(f"{place} {why}: nothing was changed") from None


def _occupied(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir())))


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM (a job's time is over) cleans up like Ctrl-C. Elsewhere than in the main thread nothing changes."""

    def stop(*_):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
