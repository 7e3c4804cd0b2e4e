"""Files and folders by path, local or on object storage (gs://, az://), through blobfile.

A file appears under its name only when it is whole: locally by a temporary name and a rename, on object storage
because an object appears when its upload ends.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import input_files
from command import UserError
from output_files import new_file, telling

READ_AT_ONCE = 1 << 20


def is_remote(path: str) -> bool:
    return "://" in str(path)


def _blobfile():
    import blobfile  # only where a path asks for it

    return blobfile


def join(folder: str, *names: str) -> str:
    return _blobfile().join(folder, *names) if is_remote(folder) else os.path.join(folder, *names)


def is_folder(path: str) -> bool:
    return _blobfile().isdir(path) if is_remote(path) else os.path.isdir(path)


def exists(path: str) -> bool:
    return _blobfile().exists(path) if is_remote(path) else os.path.exists(path)


def size(path: str) -> int:
    """Bytes."""
    return _blobfile().stat(path).size if is_remote(path) else os.path.getsize(path)


def modified(path: str) -> float:
    """When a file was last written, in seconds since the epoch, by the clock of whoever keeps it."""
    return _blobfile().stat(path).mtime if is_remote(path) else os.path.getmtime(path)


def make_folder(path: str) -> None:
    if is_remote(path):
        _blobfile().makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def list_names(folder: str) -> list[str]:
    """Names in a folder, without hidden ones (among them files being written). Raises UserError as `_readable`."""
    names = _blobfile().listdir(folder) if is_remote(folder) else os.listdir(folder)
    return _readable(folder, sorted(name.rstrip("/") for name in names if not name.startswith(".")))


def walk_files(folder: str) -> list[str]:
    """Paths below `folder`, relative to it, with "/" between names; nothing hidden, and no folder entered twice.

    Raises UserError as `_readable`.
    """
    walk = _blobfile().walk(folder) if is_remote(folder) else input_files.walk_once(folder)
    found = []
    for parent, _, names in walk:
        below = parent[len(folder) :].strip("/")
        found += [f"{below}/{name}" if below else name for name in names]
    return _readable(
        folder, sorted(path for path in found if not any(part.startswith(".") for part in path.split("/")))
    )


def _readable(folder: str, names: list[str]) -> list[str]:
    """`names` in `folder`. Raises UserError if one is no text: it could neither be printed nor entered in a table."""
    strange = [name for name in (folder, *names) if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if strange:
        shown = folder.encode(errors="backslashreplace").decode()
        raise UserError(
            f"{shown}: {len(strange)} names of files or folders are not in UTF-8, such as "
            f"{os.fsencode(strange[0])!r}: rename them"
        )
    return names


def open_for_reading(path: str) -> AbstractContextManager[BinaryIO]:
    """Raises UserError for a pipe or device, which might never end, and FileNotFoundError where there is nothing."""
    if is_remote(path):
        return _blobfile().BlobFile(path, "rb")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path} is no regular file")
    return open(path, "rb")


def read_if_there(path: str) -> bytes | None:
    """The content of a file; None where there is nothing of this name. Raises UserError for what cannot be read."""
    if not is_remote(path):
        return input_files.read_if_there(path)
    if not exists(path):
        return None
    with open_for_reading(path) as file:
        return file.read()


def sha256_of(*paths: str) -> str:
    """Of the files at `paths`, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open_for_reading(path) as file:
            while part := file.read(READ_AT_ONCE):
                digest.update(part)
    return digest.hexdigest()


def remove(path: str) -> None:
    if not exists(path):
        return
    if is_remote(path):
        _blobfile().remove(path)
    else:
        os.remove(path)


def write_whole(path: str, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary local path; then the file is at `path`, whole. Raises UserError."""
    if not is_remote(path):
        with new_file(path) as temporary:
            write(temporary)
        return
    with telling(path), tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / os.path.basename(path)
        write(temporary)
        upload(temporary, path)


def upload(source: Path, path: str) -> None:
    """Copy a local file to `path`, local or not."""
    if is_remote(path):
        _blobfile().copy(str(source), path, overwrite=True)
    else:
        with new_file(path) as temporary:
            shutil.copyfile(source, temporary)
