"""The table that `replicate.sh` ends with: real, synthetic, both, and what was published.

python pipelines/replication_table.py FOLDER SCALE
"""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "echo_segmentation"), str(ROOT / "benchmarks")]
from report import STRUCTURES, training_frames  # noqa: E402
from timing import processor  # noqa: E402

from command import UserError  # noqa: E402
from comparison import Difference, holm, paired_differences, paired_p_value  # noqa: E402
from rows import Row, read_rows  # noqa: E402

KINDS = ("real", "synthetic", "both")
MEAN = "mean"
ROWS = STRUCTURES | {MEAN: "mean of the three"}
# Stojanovski et al. 2023: trained on synthetic frames alone, tested on the 50 real test patients.
PUBLISHED = {"lv_endo": 0.886, "lv_epi": 0.919, "la": 0.852}
PUBLISHED[MEAN] = sum(PUBLISHED.values()) / 3


def runs_of(folder: Path) -> dict[str, list[Path]]:
    """The evaluated runs of each kind, by seed. Raises UserError unless all kinds have the same seeds."""
    found = {kind: sorted(p.parent for p in folder.glob(f"segmentation_{kind}_*/summary.json")) for kind in KINDS}
    seeds = {kind: [path.name.rpartition("_")[2] for path in runs] for kind, runs in found.items()}
    if not seeds["real"] or any(seeds[kind] != seeds["real"] for kind in KINDS):
        raise UserError(f"{folder}: seeds of the trainings that were evaluated: {seeds}; needed are the same for all")
    return found


def stacked(runs: Sequence[Path]) -> list[Row]:
    """The rows of all runs, seed after seed, each in order of its stems."""
    return [row for run in runs for row in sorted(read_rows(run / "metrics.csv"), key=lambda row: row["stem"])]


def dice_differences(first: Sequence[Path], second: Sequence[Path]) -> dict[str, Difference]:
    """By structure and of their mean, `second` against `first`: of each patient the mean over frames and seeds, paired
    over patients. Their adjusted p-values hold only after `adjust_together`.

    Raises UserError for other frames, or structures that some patient has not at all: they would have no mean.
    """
    rows = [stacked(runs) for runs in (first, second)]
    if [row["stem"] for row in rows[0]] != [row["stem"] for row in rows[1]]:
        raise UserError(f"{first[0].parent}: the runs were evaluated on different frames")
    found = {difference.title: difference for difference in paired_differences(*rows)}
    differences = {structure: found[f"{structure} dice"] for structure in STRUCTURES}
    if len({len(one.first) for one in differences.values()}) > 1:
        raise UserError(f"{first[0].parent}: a structure is in neither label map of any frame of some patient")
    means = [np.mean([getattr(one, side) for one in differences.values()], axis=0) for side in ("first", "second")]
    return differences | {MEAN: Difference(MEAN, *means, len(rows[0]), paired_p_value(*means))}


def adjust_together(differences: Sequence[Difference]) -> None:
    """Holm's adjustment over all lines that are shown together."""
    for difference, adjusted in zip(differences, holm([one.p for one in differences]), strict=True):
        difference.adjusted_p = float(adjusted)


def with_error(values: np.ndarray) -> str:
    """Mean over patients, and its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.3f} ({error:.3f})"


def table(folder: str, scale: str) -> str:
    runs = runs_of(Path(folder))
    against = {kind: dice_differences(runs["real"], runs[kind]) for kind in KINDS}
    settings = json.loads((runs["real"][0] / "settings.json").read_text())
    size, patients = settings["img_size"], len(against["real"]["lv_endo"].first)
    lines = [
        f"Dice on the real test frames of {patients} patients, in native geometry; networks of {size} x {size} pixels,",
        f"mean over {len(runs['real'])} seed{'s' if len(runs['real']) > 1 else ''} (standard error over patients)",
        f"{'trained on':18}" + "".join(f"{kind:>16}" for kind in KINDS) + f"{'published*':>13}",
    ]
    for structure, title in ROWS.items():
        cells = "".join(f"{with_error(against[kind][structure].second):>16}" for kind in KINDS)
        lines.append(f"{title:18}{cells}{PUBLISHED[structure]:13.3f}")
    lines += ["* synthetic frames alone, 256 x 256 pixels (Stojanovski et al. 2023)", ""]
    lines += [f"{'against real, paired over patients':38}{'difference':>11}{'95 % interval':>22}{'p':>9}{'p Holm':>9}"]
    adjust_together([difference for kind in KINDS[1:] for difference in against[kind].values()])
    for kind in KINDS[1:]:
        lines += [difference_line(f"{kind}, {ROWS[s]}", difference) for s, difference in against[kind].items()]
    return "\n".join([*lines, "", *circumstances(Path(folder), scale, runs)])


def difference_line(title: str, difference: Difference) -> str:
    low, high = difference.interval()
    mean = (difference.second - difference.first).mean()
    return f"{title:38}{mean:+11.4f}{f'{low:+.4f} .. {high:+.4f}':>22}{difference.p:9.2g}{difference.adjusted_p:9.2g}"


def circumstances(folder: Path, scale: str, runs: dict[str, list[Path]]) -> list[str]:
    """Frames, what they were drawn by, best epochs, hours, and the machine."""
    real, synthetic = (training_frames(folder / name / "all_views") for name in ("views", "segmentation_data"))
    lines = [f"scale {scale}; training frames: {real} real, {synthetic} synthetic"]
    lines += [line for path in sorted(folder.glob("results/*/manifest.csv")) for line in drawn_by(path)]
    for kind, of_kind in runs.items():
        best = [json.loads((run / "summary.json").read_text()).get("epoch") for run in of_kind]
        asked = json.loads((of_kind[0] / "settings.json").read_text())
        updates = f"{asked['epoch_updates']} updates" if asked.get("epoch_updates") else "a pass each"
        length = f"{asked['epochs']} epochs of {updates}, batches of {asked['batch_size']}"
        lines.append(f"{kind}: {length}, the best by its own validation split: {', '.join(map(str, best))}")
    seconds = seconds_by_step(folder)
    cores = len(os.sched_getaffinity(0))
    lines.append(f"{sum(seconds.values()) / 3600:.1f} hours on {cores} cores, {processor()}")
    lines += [f"{taken:>8.0f} s  {title}" for title, taken in seconds.items()]
    return lines


def drawn_by(manifest: Path) -> list[str]:
    """How many frames were drawn by which weights and how: a line, or several if one folder holds several kinds."""
    with open(manifest, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = Counter((Path(row["checkpoint"]).name, row["sampler"], row["steps"], row["device"]) for row in rows)
    return [
        f"{manifest.parent.name}: {count} synthetic frames by {weights}, {steps} steps of {sampler}, on {device}"
        for (weights, sampler, steps, device), count in kinds.items()
    ]


def seconds_by_step(folder: Path) -> dict[str, float]:
    """Of each title, all the times that it ran, to its end or not."""
    found: dict[str, float] = {}
    path = folder / ".done" / "times"
    for line in path.read_text().splitlines() if path.is_file() else ():
        seconds, _, title = line.split("\t")
        found[title] = found.get(title, 0) + float(seconds)
    return found


if __name__ == "__main__":
    try:
        print(table(*sys.argv[1:]))
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
