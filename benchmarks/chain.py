"""What the benchmarks of the whole chain share: commands that are not done twice, and Dice over patients."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from project_commands import run
from timing import ROOT

sys.path[:0] = [str(ROOT / "echo_segmentation"), str(ROOT / "pipelines")]
from replication_table import ROWS, dice_differences  # noqa: E402

from command import UserError  # noqa: E402


def once(mark: Path, *words: object, **environment: str) -> None:
    """`run`, unless it ran to its end before: `mark` is then there, with the words."""
    told = " ".join(map(str, words))
    if mark.exists():
        if mark.read_text() != told:
            told = f"{mark} is of another command ({mark.read_text()})"
            raise UserError(f"{told}: to do that again, delete it and what it has made")
        return
    run(*words, **environment)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(told)


def patient_dice(runs: Sequence[Path]) -> dict[str, np.ndarray]:
    """By structure, and of their mean, the Dice of each patient, (patients,): over frames, and the seeds of `runs`."""
    return {structure: found.first for structure, found in dice_differences(runs, runs).items()}


def error_of(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def describe(values: dict[str, np.ndarray]) -> str:
    """Mean and standard error of each structure, and the mean of the structures."""
    return "".join(f"{f'{values[row].mean():.4f} ({error_of(values[row]):.4f})':>18}" for row in ROWS)


HEADING = "".join(f"{title:>18}" for title in ROWS.values())
