"""Files and folders by path, local or on object storage (gs://, az://), through blobfile.

A file appears under its name only when it is whole: locally by a temporary name and a rename, on object storage
because an object appears when its upload ends.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from command import whole_file


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
    """Names in a folder, without hidden ones (among them files being written)."""
    names = _blobfile().listdir(folder) if is_remote(folder) else os.listdir(folder)
    return sorted(name.rstrip("/") for name in names if not name.startswith("."))


def walk_files(folder: str) -> list[str]:
    """Paths below `folder`, relative to it, with "/" between names; nothing hidden."""
    walk = _blobfile().walk(folder) if is_remote(folder) else os.walk(folder, followlinks=True)
    found = []
    for parent, _, names in walk:
        below = parent[len(folder) :].strip("/")
        found += [f"{below}/{name}" if below else name for name in names]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.split("/")))


def open_for_reading(path: str) -> AbstractContextManager[BinaryIO]:
    return _blobfile().BlobFile(path, "rb") if is_remote(path) else open(path, "rb")


def remove(path: str) -> None:
    if not exists(path):
        return
    if is_remote(path):
        _blobfile().remove(path)
    else:
        os.remove(path)


def write_whole(path: str, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary local path; then the file is at `path`, whole."""
    if not is_remote(path):
        with whole_file(path) as temporary:
            write(temporary)
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / os.path.basename(path)
        write(temporary)
        upload(temporary, path)


def upload(source: Path, path: str) -> None:
    """Copy a local file to `path`, local or not."""
    if is_remote(path):
        _blobfile().copy(str(source), path, overwrite=True)
    else:
        with whole_file(path) as temporary:
            shutil.copyfile(source, temporary)
