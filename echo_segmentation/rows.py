"""A table of evaluated cases, `metrics.csv`: a row per case, in memory and on disk.

A row holds `stem`, `patient`, `view`, `phase`, `image_quality`, then `unit` (of distances: mm, or mm@128 at a network's
size of 128 x 128; px@128 where the size of a pixel is not known), `grid` (rows x columns that were compared) and
`diagonal` (of the whole frame, in that unit), and `<structure>_<metric>` for each structure and metric: floats, NaN
where undefined. Before the numbers stands `reference_sha256`, of the reference label on that grid, which tables from
before do not have.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import FiniteFloat

from command import UserError
from output_files import new_file
from schema import checked, parse_csv

TEXTS = ("stem", "patient", "view", "phase", "image_quality", "unit", "grid")
REFERENCE = "reference_sha256"
LATER_TEXTS = (REFERENCE,)
NUMBERS = ("diagonal",)
METRICS = ("dice", "hd95", "hd", "msd")
DISTANCES = METRICS[1:]
WITHIN_CONE = "dice_cone"
Row = dict[str, Any]


def structures_in(rows: Sequence[Row]) -> list[str]:
    """Names of the structures that the rows hold, in their order."""
    return [name.removesuffix("_dice") for name in rows[0] if name.endswith("_dice")]


def column(rows: Sequence[Row], structure: str, metric: str) -> np.ndarray:
    """Values of one metric, (cases,) float64."""
    return np.array([row[f"{structure}_{metric}"] for row in rows], dtype=float)


def missed(rows: Sequence[Row], structure: str) -> np.ndarray:
    """Which cases have the structure in one of their two label maps only, (cases,) bool."""
    return np.isfinite(column(rows, structure, "dice")) & np.isnan(column(rows, structure, "hd"))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV; NaN becomes an empty field."""
    with new_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})


def read_rows(path: Path, texts: Sequence[str] = TEXTS, numbers: Sequence[str] = NUMBERS) -> list[Row]:
    """What `write_rows` wrote; all columns but `texts` and LATER_TEXTS are numbers.

    Raises UserError for what is no such table: without one of `texts`, of `numbers`, or of the METRICS of a structure.
    """
    if not path.is_file():
        raise UserError(f"{path.parent}: no {path.name} in it; give the output folder of test_model.py or runner.py")
    raw = parse_csv(path.read_bytes(), str(path))
    measured = [f"{name}_{metric}" for name in (structures_in(raw) if raw else ()) for metric in METRICS]
    if not raw or not {*texts, *numbers, *measured} <= set(raw[0]):
        raise UserError(f"{path}: not a table of this program, or empty, or of an earlier version: evaluate again")
    given = [{k: v or None for k, v in row.items() if k not in (*texts, *LATER_TEXTS)} for row in raw]
    known = checked(list[dict[str, FiniteFloat | None]], given, str(path))
    return [
        row | {name: math.nan if value is None else value for name, value in found.items()}
        for row, found in zip(raw, known, strict=True)
    ]
