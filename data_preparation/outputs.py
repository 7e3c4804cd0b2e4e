"""Output folders that appear whole or not at all.

A command names the folders it is going to make. They are built in a hidden folder beside their places and renamed when
all is done: an interrupted or failed run leaves what was there before. Folders that exist already are refused, unless
the user says overwrite: then they are replaced, as a whole, so that no folder ever holds files of two runs, and only
what the toolkit made. Each is locked meanwhile. What a killed run was building is deleted by the next one.
"""

import contextlib
import errno
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from command import DISK_ERRORS, UMASK, UserError
from folder_lock import LOCK, FolderLock
from input_files import real_path

UNFINISHED, REPLACED, GIVEN_UP = ".unfinished-", "replaced-", "given-up"


@contextlib.contextmanager
def new_folders(
    parent: Path, names: Sequence[str], overwrite: bool, made_here: Callable[[Path], bool]
) -> Iterator[Path]:
    """A temporary folder in `parent`; its entries called `names` move into `parent` when the block ends well.

    Entries that the block does not make are left out. Raises UserError if one of `names` exists (as anything but an
    empty folder) and `overwrite` is False, or it is not `made_here` by the toolkit, or is being made by another run, or
    the disk is full.
    """
    parent = Path(parent)
    if parent.exists() and not parent.is_dir():
        raise UserError(f"{parent} is not a folder")
    _refuse_existing(parent, names, overwrite, made_here)
    parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as locks:
        for name in names:
            locks.enter_context(FolderLock(parent, f".{name}.lock"))
        sweep(parent, names)
        _refuse_existing(parent, names, overwrite, made_here)  # what was put back, or made until the lock was free
        yield from _build(parent, names, overwrite)


def refuse_to_replace(inputs: Iterable[Path], parent: Path, names: Iterable[str]) -> None:
    """Raises UserError if one of `inputs` is, or lies in, one of the folders `names` of `parent`, which are made."""
    made = {real_path(parent / name) for name in names}
    for path in inputs:
        if made & {real_path(path), *real_path(path).parents}:
            raise UserError(f"{parent}: {path}, which is read here, would be replaced")


def _refuse_existing(parent: Path, names: Sequence[str], overwrite: bool, made_here: Callable[[Path], bool]) -> None:
    existing = [name for name in names if _occupied(parent / name)]
    if existing and not overwrite:
        raise UserError(
            f"{parent} already holds {', '.join(existing)}: choose another folder, or --overwrite True to replace them"
        )
    if foreign := [name for name in existing if not made_here(parent / name)]:
        raise UserError(
            f"{parent} holds {', '.join(foreign)}, which does not look made by this toolkit and is not replaced: "
            "choose another folder, or move it away"
        )


def _build(parent: Path, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    building, lock = _begin(parent)
    try:
        with _terminated_like_interrupted():
            yield building
            _move(building, parent, names, overwrite)
        _remove(building)
    except BaseException as error:
        if not any(building.glob(f"{REPLACED}*/*")):  # what could not be put back is not deleted either
            _remove(building)
        if isinstance(error, OSError) and error.errno in (*DISK_ERRORS, errno.ENOENT):  # a write does not say of what
            raise UserError(f"{error.filename or parent} cannot be written: {error.strerror}") from None
        raise
    finally:
        lock.release()


def _begin(parent: Path) -> tuple[Path, FolderLock]:
    """A new hidden folder, and its lock, held."""
    while True:
        building = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
        try:
            building.chmod(0o777 & ~UMASK)
            return building, FolderLock(building).take()
        except FileNotFoundError:
            continue  # another run has swept it, while it was empty
        except OSError:
            _remove(building)
            raise


def sweep(parent: Path, names: Sequence[str]) -> None:
    """Delete what runs that are dead were building in `parent`, by their locks.

    One that was killed while it replaced folders has moved the old ones aside: those called `names`, which the caller
    holds, are put back where nothing is in their place; any other is kept, where it is, and told of.
    """
    for left in parent.glob(f"{UNFINISHED}*"):
        if not FolderLock(left).is_left_by_the_dead():
            with contextlib.suppress(OSError):  # full: of a run that lives. Empty: killed before its lock, or after it
                left.rmdir()
            continue
        for old in left.glob(f"{REPLACED}*/*"):
            if old.name in names and not _occupied(parent / old.name):
                old.rename(parent / old.name)
                print(f"put back {parent / old.name}, which a killed run had moved aside", file=sys.stderr)
            else:
                print(f"{old} was replaced by a run that was killed: delete it if it is not needed", file=sys.stderr)
        if not any(left.glob(f"{REPLACED}*/*")):
            _remove(left)


def _remove(building: Path) -> None:
    """Delete a folder, its lock last: were this killed, the next run could still tell that its maker is dead."""
    for path in building.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(building, ignore_errors=True)


def _move(building: Path, parent: Path, names: Sequence[str], overwrite: bool) -> None:
    """First all old folders out of the way, then all new ones in; if one cannot be moved, all go back."""
    old = Path(tempfile.mkdtemp(prefix=REPLACED, dir=building))
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
    old.rename(building / GIVEN_UP)  # not to be put back, nor kept, where its deletion is killed


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
