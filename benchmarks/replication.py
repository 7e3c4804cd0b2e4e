"""What decides how well synthetic frames teach: their number, sampling steps, or the length of the training?

    python benchmarks/replication.py --replicate_folder FOLDER --camus RELEASE [--frames 500 2000 9000]
        [--steps 8 10 20 50 250] [--lengths 2500 5000 10000 20000] [--log FILE]

FOLDER is that of a finished pipelines/replicate.sh at cpu64 or cpu128.
Each point trains one segmentation with the settings of that run, and judges it on the real test patients in native
geometry. Its frames are some of those of the run or, at other steps or lengths, drawn for the same label maps. Run
again, it goes on. Writes the log results/replication.txt, and replication.png beside it.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from annotated_types import Interval
from chain import HEADING, describe, error_of, patient_dice
from replication_run import ReplicationRun
from replication_table import (
    DIFFERENCE_HEADING,
    PUBLISHED,
    ROWS,
    STRUCTURES,
    TITLE_WIDTH,
    dice_differences,
    difference_line,
    seed_spread,
)
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from command import UserError, run_command  # noqa: E402
from schema import check_settings  # noqa: E402

Positive = Annotated[int, Interval(ge=1)]
COLOURS = dict(zip(STRUCTURES, ("#e69f00", "#0072b2", "#009e73"), strict=True))  # of the segmentation's figures
AXES = {"frames": "synthetic frames", "steps": "sampling steps", "length": "steps into the diffusion training"}


@dataclass
class BenchmarkSettings:
    replicate_folder: Path
    """Of pipelines/replicate.sh, for one network of all views."""
    camus: Path
    """The CAMUS release it was made from."""
    frames: tuple[Positive, ...] = (500, 2000, 9000)
    """Numbers of synthetic frames, of training and validation together, of those that the run has drawn."""
    steps: tuple[Positive, ...] = (8, 10, 20, 50, 250)
    """Sampling steps, for usual_frames frames from the last checkpoint."""
    lengths: tuple[Positive, ...] = ()
    """Training steps of the checkpoints compared, for usual_frames frames at the run's steps. Default: the whole
    training, and those nearest to its half, quarter and eighth."""
    usual_frames: Positive = 500
    """Frames where their number is not what is compared."""
    seed: int = 0
    """Of each segmentation."""
    log: Path = RESULTS / "replication.txt"
    """Where the results are written; the plot beside it."""


@dataclass(frozen=True, order=True)
class Point:
    """Averaged weights after `length` training steps, sampled in `steps` steps, `frames` of them."""

    length: int
    steps: int
    frames: int

    def __str__(self) -> str:
        return f"{self.length}_{self.steps}_{self.frames}"


def judged(run: ReplicationRun, point: Point, seed: int) -> Path:
    """The evaluated segmentation of `point`; what is there is not done again."""
    last, own = max(run.checkpoints), run.folder / f"segmentation_synthetic_{seed}"
    if point == Point(last, run.steps, len(run.label_maps)) and (own / "summary.json").is_file():
        return own
    if (point.length, point.steps) == (last, run.steps):
        data = run.part_of("segmentation_data/all_views", point.frames)
    else:
        data = run.draw(str(point), run.checkpoints[point.length], point.steps, point.frames)
    return run.segment(str(point), data, seed)


def plan(settings: BenchmarkSettings, run: ReplicationRun) -> dict[str, list[Point]]:
    """The points of each axis. Raises UserError for a training step that has no checkpoint, or too many frames."""
    kept, frames = run.checkpoints, settings.usual_frames
    missing = [length for length in settings.lengths if length not in kept]
    if missing:
        raise UserError(f"no checkpoint after {missing[0]} steps; there are {', '.join(map(str, kept))}")
    if max((frames, *settings.frames)) > len(run.label_maps):
        raise UserError(f"frames {max((frames, *settings.frames))}: the run has {len(run.label_maps)} label maps")
    last = max(kept)
    halves = {min(kept, key=lambda length: abs(length - last / parts)) for parts in (1, 2, 4, 8)}
    return {
        "frames": [Point(last, run.steps, n) for n in sorted(settings.frames)],
        "steps": [Point(last, n, frames) for n in sorted(settings.steps)],
        "length": [Point(n, run.steps, frames) for n in sorted(settings.lengths or halves)],
    }


def draw(found: dict[str, dict[int, dict[str, np.ndarray]]], real: dict[str, np.ndarray], path: Path) -> None:
    """A panel for each axis: Dice with its standard error; dashed what real frames teach, dotted what was published."""
    figure, panels = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.8), sharey=True, squeeze=False)
    for panel, (axis, points) in zip(panels[0], found.items(), strict=True):
        for structure, title in STRUCTURES.items():
            colour = COLOURS[structure]
            means = [values[structure].mean() for values in points.values()]
            errors = [error_of(values[structure]) for values in points.values()]
            panel.errorbar(list(points), means, errors, color=colour, marker="o", capsize=3, label=title)
            panel.axhline(real[structure].mean(), color=colour, linestyle="--", linewidth=0.8)
            panel.axhline(PUBLISHED[structure], color=colour, linestyle=":", linewidth=0.8)
        panel.plot([], [], "k--", linewidth=0.8, label="real frames alone")
        panel.plot([], [], "k:", linewidth=0.8, label="published, 256 pixels")
        panel.set_xscale("log")
        panel.set_xticks(list(points), list(map(str, points)))
        panel.minorticks_off()
        panel.set_xlabel(AXES[axis])
    panels[0][0].set_ylabel("Dice on real test patients")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def against_most(axis: str, points: list[Point], judged_runs: dict[Point, Path]) -> list[str]:
    """What each point of an axis lacks to its last one, paired over patients."""
    if len(points) < 2:
        return []
    *others, most = points
    against = {getattr(point, axis): dice_differences([judged_runs[most]], [judged_runs[point]]) for point in others}
    title = f"{AXES[axis]}, against {getattr(most, axis)}"
    lines = [f"{title:{14 + TITLE_WIDTH}}{DIFFERENCE_HEADING}"]
    for value, by_structure in against.items():
        lines += [f"{value:<14}{difference_line(ROWS[s], one)}" for s, one in by_structure.items()]
    return [*lines, ""]


def runs_by_kind(folder: Path) -> dict[str, list[Path]]:
    """The run's own segmentations of real and of synthetic frames, whatever their seeds."""
    return {
        kind: sorted(path.parent for path in folder.glob(f"segmentation_{kind}_[0-9]*/summary.json"))
        for kind in ("real", "synthetic")
    }


def listed(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def measure(settings: BenchmarkSettings) -> None:
    check_settings(settings)
    run = ReplicationRun(settings.replicate_folder, settings.camus, settings.seed)
    axes, asked = plan(settings, run), run.settings
    log = Log(
        settings.log,
        f"python benchmarks/replication.py --replicate_folder FOLDER --camus CAMUS --frames {listed(settings.frames)} "
        f"--steps {listed(settings.steps)} --lengths {listed([point.length for point in axes['length']])} "
        f"--usual_frames {settings.usual_frames} --seed {settings.seed}",
        f"each segmentation: {asked['epochs']} epochs of {asked['epoch_updates']} updates of {asked['batch_size']}",
        f"{asked['img_size']} x {asked['img_size']} pixels; frames of training and validation together",
        f"steps into a training of {max(run.checkpoints)}: its learning rate has not come down yet before the last",
        "Dice on the real test patients, mean (standard error over patients), in native geometry",
    )
    real = patient_dice([run.real])
    log.say(f"{'real frames alone':40}{HEADING}\n{'':40}{describe(real)}\n")
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    judged_runs: dict[Point, Path] = {}
    for axis, points in axes.items():
        log.say(f"{AXES[axis]:40}{HEADING}")
        found[axis] = {}
        for point in points:
            judged_runs[point] = judged(run, point, settings.seed)
            values = patient_dice([judged_runs[point]])
            found[axis][getattr(point, axis)] = values
            log.say(f"{getattr(point, axis):<40}{describe(values)}   {point!r}")
        log.say()
        for line in against_most(axis, points, judged_runs):
            log.say(line)
    log.say("one seed of each segmentation: no p-values, and intervals are of resampled patients alone")
    log.say("how far seeds of the run itself lie apart:")
    for line in seed_spread(runs_by_kind(run.folder)):
        log.say(line)
    log.write()
    draw(found, real, settings.log.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))
