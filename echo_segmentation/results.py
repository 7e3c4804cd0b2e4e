"""What a training and an evaluation leave in their output folders, and how it is told from what others left."""

import json
import os
from pathlib import Path

from command import UserError
from input_files import read_if_there
from recorded import SETTINGS

# Where an evaluation writes, beside its output folder itself; and what stands there until it is done.
RESULT_FOLDERS = ("predictions", "predictions_native", "figures")
RESULT_FILES = ("summary.json", "metrics.csv", "ejection_fraction.csv", "camus_table.md", "camus_table.csv")
UNFINISHED = "unfinished.txt"
OF_A_TRAINING = ("last.pth", "log.csv")
LOG_COLUMNS = ("epoch", "loss", "dice_mean", "val_loss", "val_dice_mean", "test_loss", "test_dice_mean")
SETTINGS_OF_A_TRAINING = {"data_dir", "epochs", "encoder_name"}  # some that all its versions had, and nothing else has


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


def refuse_foreign_training(output_dir: Path) -> None:
    """Raises UserError for a log.csv or settings.json that no training has left there. A last.pth is looked at before
    anything is written, and where it is one of ours, so are they.
    """
    log, settings = output_dir / "log.csv", output_dir / SETTINGS
    if (output_dir / "last.pth").exists():
        return
    header = (read_if_there(log) or b"").split(b"\n", 1)[0].strip()
    ours = {log: header == ",".join(LOG_COLUMNS).encode(), settings: keys_of(settings) >= SETTINGS_OF_A_TRAINING}
    found = next((path for path, known in ours.items() if os.path.lexists(path) and not known), None)
    if found:
        raise UserError(f"--output-dir {output_dir}: holds {found}, which is of no training; give another one")


def is_summary(path: Path) -> bool:
    """Whether the file is the summary.json of an evaluation: other tools call theirs so, too."""
    return {"unit", "overall"} <= keys_of(path)


def keys_of(path: Path) -> set[str]:
    """The keys of a JSON file; none of what is no JSON object, or no file."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    return set(content) if isinstance(content, dict) else set()
