"""Files that a command reads: those that may be absent, and all below a folder.

This small file stands in each of the three script folders, which do not import one another.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from picture_files import read_bytes


def read_if_there(path: str | os.PathLike) -> bytes | None:
    """The content of a file; None where there is nothing of this name. Raises UserError for what cannot be read: a
    link that leads nowhere is not absent."""
    return read_bytes(path) if os.path.lexists(path) else None


def real_path(path: str | os.PathLike) -> Path:
    """`path`, absolute and without links; what lies behind links in a circle stays as it is (Path.resolve raises)."""
    return Path(os.path.realpath(path))


def walk_once(folder: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk through links too, but each folder once: links may lead in circles."""
    entered = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        yield parent, folders, names
