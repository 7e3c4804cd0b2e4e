"""What an evaluation leaves in its output folder, and how its results are told from those of other tools."""

import json
from pathlib import Path

from command import UserError

# Where an evaluation writes, beside its output folder itself; and what stands there until it is done.
RESULT_FOLDERS = ("predictions", "predictions_native", "figures")
RESULT_FILES = ("summary.json", "metrics.csv", "ejection_fraction.csv", "camus_table.md", "camus_table.csv")
UNFINISHED = "unfinished.txt"


def refuse_foreign_results(output_dir: Path, *further: str) -> None:
    """Raises UserError for files where results are put, and old ones deleted, that no evaluation has left there; those
    named `further` too."""
    if (output_dir / UNFINISHED).exists() or is_summary(output_dir / "summary.json"):
        return
    tables = (output_dir / name for name in (*RESULT_FILES, *further))
    folders = (output_dir / name for name in RESULT_FOLDERS)
    pictures = (path for folder in folders for path in (*folder.glob("*.png"), *folder.glob("*.nii.gz")))
    found = next((path for path in (*tables, *pictures) if path.exists()), None)
    if found:
        raise UserError(f"--output-dir {output_dir}: holds {found}, which is no result of ours; give another one")


def is_summary(path: Path) -> bool:
    """Whether the file is the summary.json of an evaluation: other tools call theirs so, too."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"unit", "overall"} <= content.keys()
