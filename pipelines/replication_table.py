"""The table that `replicate.sh` ends with: real, synthetic, both, what else was tried, and what was published.

python pipelines/replication_table.py FOLDER SCALE [SEED...]    of these seeds; by default all that each kind has
"""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "echo_segmentation"), str(ROOT / "benchmarks")]
from report import STRUCTURES, training_frames  # noqa: E402
from timing import processor  # noqa: E402

from command import UserError  # noqa: E402
from comparison import CONFIDENCE, RESAMPLINGS, Difference, holm, paired_differences, paired_p_value  # noqa: E402
from rows import read_rows  # noqa: E402

KINDS = ("real", "synthetic", "both")
# What REPLICATE_KINDS may add.
MORE_KINDS = {
    "oversampled": "both, real frames five times in each pass",
    "then_real": "real frames, from the network of synthetic ones on: twice the updates in all",
    "real_again": "real frames, from the network of real ones on: what then_real is to be held against",
}
MEAN = "mean"
ROWS = STRUCTURES | {MEAN: "mean of the three"}
# Stojanovski et al. 2023: trained on synthetic frames alone, tested on the 50 real test patients.
PUBLISHED = {"lv_endo": 0.886, "lv_epi": 0.919, "la": 0.852}
PUBLISHED[MEAN] = sum(PUBLISHED.values()) / 3


TITLE_WIDTH = 42  # of the longest: then_real - real_again, mean of the three
DIFFERENCE_HEADING = f"{'difference':>11}{'95 % interval':>22}{'p':>9}{'p Holm':>9}"
LEGEND = (
    "interval: patients resampled, and the seeds of each side; p: Wilcoxon's signed-rank test of patients (their means",
    "over seeds, as if exact), adjusted after Holm over all lines; there is none where a side has one seed",
)
LEGEND_OF_ONE_SEED = (
    "interval: patients resampled; one seed of each: what another training would give is not in it, and there are no p",
)


@dataclass
class SeededDifference(Difference):
    """Of several trainings on each side; `first` and `second` are means over them."""

    by_seed: tuple[np.ndarray, np.ndarray] = ()
    """(seeds, patients) of each side."""

    def interval(self) -> tuple[float, float]:
        """95 % percentile interval of the mean difference, of patients resampled, and of seeds on each side."""
        rng, count = np.random.default_rng(0), self.first.size
        if count < 2:
            return float("nan"), float("nan")
        patients = rng.integers(count, size=(RESAMPLINGS, 1, count))
        means = []
        for side in self.by_seed:
            seeds = rng.integers(len(side), size=(RESAMPLINGS, len(side), 1))
            means.append(side[seeds, patients].mean((1, 2)))
        tail = (1 - CONFIDENCE) / 2
        return tuple(np.quantile(means[1] - means[0], (tail, 1 - tail)).tolist())


def runs_of(folder: Path, seeds: Sequence[int] = ()) -> dict[str, list[Path]]:
    """The evaluated runs of each kind, by seed: of `seeds`, by default of all that each of KINDS has.

    Those of MORE_KINDS are there if they have the same seeds. Raises UserError if one of KINDS has not.
    """
    found = evaluated(folder)
    wanted = sorted(seeds) or sorted(set.intersection(*({*found[kind]} for kind in KINDS)))
    if not wanted or any(not {*wanted} <= {*found[kind]} for kind in KINDS):
        told = ", ".join(f"{kind} {listed(found[kind])}" for kind in KINDS)
        raise UserError(f"{folder}: seeds of the trainings that were evaluated: {told}; needed are the same for all")
    return {kind: [runs[seed] for seed in wanted] for kind, runs in found.items() if {*wanted} <= {*runs}}


def evaluated(folder: Path) -> dict[str, dict[int, Path]]:
    """Of each kind, by seed, the runs in `folder` that were evaluated."""
    found = {
        kind: [path.parent for path in folder.glob(f"segmentation_{kind}_[0-9]*/summary.json")]
        for kind in (*KINDS, *MORE_KINDS)
    }
    return {kind: dict(sorted((seed_of(run), run) for run in runs)) for kind, runs in found.items()}


def seed_of(run: Path) -> int:
    return int(run.name.rpartition("_")[2])


def listed(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds)) or "none"


def left_out(folder: Path, runs: dict[str, list[Path]]) -> list[str]:
    """A line on each kind of which `folder` has runs that `runs` have not."""
    others = {kind: [s for s, run in of_kind.items() if run not in runs.get(kind, ())]
              for kind, of_kind in evaluated(folder).items()}  # fmt: skip
    shown = listed([seed_of(run) for run in runs["real"]])
    return [f"{kind}: also evaluated with seed {listed(seeds)}, not in this table of seed {shown}"
            for kind, seeds in others.items() if seeds]  # fmt: skip


def patient_dice_of(run: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The stems of a run's frames, and by structure the Dice of each patient, mean over frames, (patients,).

    Raises UserError for a structure that some patient has not at all: its mean would be of other patients.
    """
    rows = sorted(read_rows(run / "metrics.csv"), key=lambda row: row["stem"])
    found = {difference.title: difference.first for difference in paired_differences(rows, rows)}
    values = {structure: found[f"{structure} dice"] for structure in STRUCTURES}
    if len({len(one) for one in values.values()}) > 1:
        raise UserError(f"{run}: a structure is in neither label map of any frame of some patient")
    return [row["stem"] for row in rows], values | {MEAN: np.mean(list(values.values()), axis=0)}


def dice_differences(first: Sequence[Path], second: Sequence[Path]) -> dict[str, SeededDifference]:
    """By structure and of their mean, `second` against `first`: of each patient the mean over frames and seeds, paired
    over patients. Their adjusted p-values hold only after `adjust_together`; there is no p where a side has one seed,
    which would take another draw of its frames and its start for an effect.

    Raises UserError for other frames, or structures that some patient has not at all.
    """
    sides = [[patient_dice_of(run) for run in runs] for runs in (first, second)]
    if any(stems != sides[0][0][0] for side in sides for stems, _ in side):
        raise UserError(f"{first[0].parent}: the runs were evaluated on different frames")
    frames, found = len(sides[0][0][0]), {}
    for structure in ROWS:
        by_seed = tuple(np.stack([values[structure] for _, values in side]) for side in sides)
        means = [side.mean(0) for side in by_seed]
        p = paired_p_value(*means) if min(map(len, by_seed)) > 1 else float("nan")
        found[structure] = SeededDifference(structure, *means, frames, p, by_seed=by_seed)
    return found


def adjust_together(differences: Sequence[Difference]) -> None:
    """Holm's adjustment over all lines that are shown together."""
    for difference, adjusted in zip(differences, holm([one.p for one in differences]), strict=True):
        difference.adjusted_p = float(adjusted)


def with_error(values: np.ndarray) -> str:
    """Mean over patients, and its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{values.mean():.3f} ({error:.3f})"


def table(folder: str, scale: str, seeds: Sequence[int] = ()) -> str:
    runs = runs_of(Path(folder), seeds)
    against = {kind: dice_differences(runs["real"], of_kind) for kind, of_kind in runs.items()}
    settings = json.loads((runs["real"][0] / "settings.json").read_text())
    size, patients = settings["img_size"], len(against["real"]["lv_endo"].first)
    lines = [
        f"Dice on the real test frames of {patients} patients, in native geometry; networks of {size} x {size} pixels,",
        f"mean over {len(runs['real'])} seed{'s' if len(runs['real']) > 1 else ''} (standard error over patients)",
        f"{'trained on':18}" + "".join(f"{kind:>16}" for kind in runs) + f"{'published*':>13}",
    ]
    for structure, title in ROWS.items():
        cells = "".join(f"{with_error(against[kind][structure].second):>16}" for kind in runs)
        lines.append(f"{title:18}{cells}{PUBLISHED[structure]:13.3f}")
    lines += ["* synthetic frames alone, 256 x 256 pixels (Stojanovski et al. 2023)"]
    lines += [f"{kind}: {MORE_KINDS[kind]}" for kind in runs if kind in MORE_KINDS]
    pairs = [("real", kind) for kind in runs if kind != "real"]
    if {"then_real", "real_again"} <= runs.keys():
        pairs.append(("real_again", "then_real"))
    shown = {pair: dice_differences(*(runs[kind] for kind in pair)) for pair in pairs}
    adjust_together([difference for by_structure in shown.values() for difference in by_structure.values()])
    lines += ["", f"{'paired over patients':{TITLE_WIDTH}}{DIFFERENCE_HEADING}"]
    for (first, second), by_structure in shown.items():
        lines += [difference_line(f"{second} - {first}, {ROWS[s]}", one) for s, one in by_structure.items()]
    lines += [*legend(runs), "", *seed_spread(runs)]
    return "\n".join([*lines, "", *left_out(Path(folder), runs), *circumstances(Path(folder), scale, runs)])


def legend(runs: dict[str, list[Path]]) -> tuple[str, ...]:
    """What intervals and p-values of these runs mean."""
    return LEGEND if len(runs["real"]) > 1 else LEGEND_OF_ONE_SEED


def seed_spread(runs: dict[str, list[Path]]) -> list[str]:
    """Dice of each seed, mean over patients: how far trainings lie apart that differ in nothing else."""
    lines = [f"{'Dice by seed':{TITLE_WIDTH}}" + "".join(f"{title:>20}" for title in ROWS.values())]
    for of_kind in runs.values():
        for run in of_kind:
            cells = "".join(f"{one.mean():20.4f}" for one in patient_dice_of(run)[1].values())
            lines.append(f"{run.name.removeprefix('segmentation_'):{TITLE_WIDTH}}{cells}")
    return lines


def difference_line(title: str, difference: Difference) -> str:
    low, high = difference.interval()
    mean = (difference.second - difference.first).mean()
    p = "".join(f"{'-' if np.isnan(one) else f'{one:.2g}':>9}" for one in (difference.p, difference.adjusted_p))
    return f"{title:{TITLE_WIDTH}}{mean:+11.4f}{f'{low:+.4f} .. {high:+.4f}':>22}{p}"


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
    if len(sys.argv) < 3 or not all(word.isdecimal() for word in sys.argv[3:]):
        sys.exit(print("error: name the folder of replicate.sh, a scale, and seeds or none", file=sys.stderr) or 2)
    try:
        print(table(*sys.argv[1:3], [int(word) for word in sys.argv[3:]]))
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
