"""Small disks, and what is told and left when they are full."""

import subprocess
from pathlib import Path

import pytest

from command import UserError

FULL = "a full disk", "one line with the file, exit 2; good files stay; it goes on with more room"
GONE = "an output folder that vanishes", "one line with the file, exit 2"
READ_ONLY = "a read-only disk", "one line with the file, exit 2; good files stay"


def mounted(folder: Path, options: str) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(words, capture_output=True).returncode == 0


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if ".tmp" in path.name or path.name.startswith(".unfinished")]


def told(error: pytest.ExceptionInfo, *words: str) -> None:
    text = str(error.value)
    assert isinstance(error.value, UserError) and "\n" not in text and len(text) < 500
    assert all(word in text for word in words), text
