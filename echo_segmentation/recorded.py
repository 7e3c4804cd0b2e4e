"""The settings of a run, written beside its results: they say what made the numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from output_files import new_file

SETTINGS = "settings.json"


class Recorded:
    """A dataclass of settings that can be written."""

    def as_dict(self) -> dict[str, Any]:
        """All of them, in plain values, for JSON and for a checkpoint."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """The same without classes of our own: paths are strings, tuples lists."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path | str) else value


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write plain values as settings.json. Raises UserError where it cannot be written."""
    with new_file(folder / SETTINGS) as path:
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
