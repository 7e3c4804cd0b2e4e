"""What decides how well synthetic frames teach: their number, sampling steps, or the length of the training?

    python benchmarks/replication.py --replicate_folder FOLDER --camus RELEASE [--frames 500 2000 9000]
        [--steps 8 10 20 50 250] [--lengths 2500 5000 10000 20000] [--log FILE]

FOLDER is that of pipelines/replicate.sh at cpu64 or cpu128, whose diffusion training is done.
Each point samples frames from one checkpoint, trains one segmentation on them (the same number of updates for all, one
seed), and judges it on the real test patients in native geometry. Run again, it goes on. Writes the log
results/replication.txt, and replication.png beside it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from chain import HEADING, describe, error_of, once, patient_dice
from replication_table import PUBLISHED, ROWS, STRUCTURES, adjust_together, dice_differences, difference_line
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from command import UserError, run_command  # noqa: E402

BATCH, LOOKS = 16, 10  # as in replicate.sh
COLOURS = dict(zip(STRUCTURES, ("#e69f00", "#0072b2", "#009e73"), strict=True))  # of the segmentation's figures
AXES = {"frames": "synthetic frames", "steps": "sampling steps", "length": "training steps of the diffusion model"}


@dataclass
class BenchmarkSettings:
    replicate_folder: Path
    """Of pipelines/replicate.sh, for one network of all views."""
    camus: Path
    """The CAMUS release it was made from."""
    frames: tuple[int, ...] = (500, 2000, 9000)
    """Numbers of synthetic frames, of training and validation together, at the usual steps from the last checkpoint."""
    steps: tuple[int, ...] = (8, 10, 20, 50, 250)
    """Sampling steps, for usual_frames frames from the last checkpoint."""
    lengths: tuple[int, ...] = ()
    """Training steps of the checkpoints compared, for usual_frames frames at the usual steps. Default: the whole
    training, and those nearest to its half, quarter and eighth."""
    usual_frames: int = 2000
    """Frames where their number is not what is compared."""
    usual_steps: int = 10
    """Sampling steps where they are not what is compared."""
    updates: int = 3000
    """Of each segmentation, of 16 images."""
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


def checkpoints(settings: BenchmarkSettings) -> dict[int, Path]:
    """Averaged weights by training step. Raises UserError if there are none."""
    folder = settings.replicate_folder / "diffusion" / "all_views"
    found = {int(path.stem.rpartition("_")[2]): path for path in folder.glob("ema_*_*.pt")}
    if not found:
        raise UserError(f"{folder} has no averaged weights: let replicate.sh train first")
    return dict(sorted(found.items()))


def plan(settings: BenchmarkSettings) -> dict[str, list[Point]]:
    """The points of each axis. Raises UserError for a training step that has no checkpoint."""
    kept = checkpoints(settings)
    missing = [length for length in settings.lengths if length not in kept]
    if missing:
        raise UserError(f"no checkpoint after {missing[0]} steps; there are {', '.join(map(str, kept))}")
    last, steps, frames = max(kept), settings.usual_steps, settings.usual_frames
    halves = {min(kept, key=lambda length: abs(length - last / parts)) for parts in (1, 2, 4, 8)}
    return {
        "frames": [Point(last, steps, n) for n in sorted(settings.frames)],
        "steps": [Point(last, n, frames) for n in sorted(settings.steps)],
        "length": [Point(n, steps, frames) for n in sorted(settings.lengths or halves)],
    }


def evaluate(point: Point, settings: BenchmarkSettings) -> Path:
    """The evaluated segmentation of one point; what is there is not done again."""
    base, real = settings.replicate_folder / "what_decides", settings.replicate_folder
    size, weights = image_size(settings), checkpoints(settings)[point.length]
    results = base / f"results_{point.length}_{point.steps}_{point.frames}"
    data, out = (results.with_name(results.name.replace("results", kind)) for kind in ("data", "segmentation"))
    once(
        base / f"{results.name}.done",
        *(ROOT / "semantic_diffusion_model/image_sample.py", "--datadir", real / "augmented/all_views_augmented"),
        *("--resume_checkpoint", weights, "--results_dir", results, "--num_samples", point.frames),
        *("--num_steps", point.steps, "--deterministic_test", False),
    )
    once(
        base / f"{data.name}.done",
        *(ROOT / "data_preparation/prepare_inference4segmentation.py", "--testing_data_folder", real / "views"),
        *("--sdm_results_folder", results, "--save_folder", data, "--overwrite", True),
    )
    once(
        base / f"{out.name}.done",
        *(ROOT / "echo_segmentation/runner.py", "--data-dir", data / "all_views", "--output-dir", out),
        *("--img-size", size, "--batch-size", BATCH, "--loss", "dice_ce", "--min-lr", "1e-5", "--seed", settings.seed),
        *("--epochs", min(LOOKS, settings.updates), "--epoch-updates", max(1, settings.updates // LOOKS)),
        *("--native-dir", settings.camus, "--gpu", "cpu", "--num-workers", 0, "--test-viz-num", 0),
    )
    return out


def image_size(settings: BenchmarkSettings) -> int:
    """That of the extracted frames."""
    from view_folders import read_image

    return read_image(next((settings.replicate_folder / "views/all_views/images/training").glob("*.png"))).shape[0]


def draw(found: dict[str, dict[int, dict[str, np.ndarray]]], real: dict[str, np.ndarray], path: Path) -> None:
    """A panel for each axis: Dice with its standard error; dashed what real frames teach, dotted what was published."""
    figure, panels = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.8), sharey=True, squeeze=False)
    for panel, (axis, points) in zip(panels[0], found.items(), strict=True):
        for structure, title in STRUCTURES.items():
            colour = COLOURS[structure]
            means = [values[structure].mean() for values in points.values()]
            errors = [error_of(values[structure]) for values in points.values()]
            panel.errorbar(list(points), means, errors, color=colour, marker="o", capsize=3, label=title)
            if real:
                panel.axhline(real[structure].mean(), color=colour, linestyle="--", linewidth=0.8)
            panel.axhline(PUBLISHED[structure], color=colour, linestyle=":", linewidth=0.8)
        panel.set_xscale("log")
        panel.set_xticks(list(points), list(map(str, points)))
        panel.minorticks_off()
        panel.set_xlabel(AXES[axis])
    panels[0][0].set_ylabel("Dice on real test patients")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def against_most(axis: str, points: list[Point], settings: BenchmarkSettings) -> list[str]:
    """What each point of an axis lacks to its last one, paired over patients."""
    if len(points) < 2:
        return []
    *others, most = points
    against = {
        getattr(point, axis): dice_differences([evaluate(most, settings)], [evaluate(point, settings)])
        for point in others
    }
    adjust_together([difference for by_structure in against.values() for difference in by_structure.values()])
    title = f"{AXES[axis]}, against {getattr(most, axis)}"
    lines = [f"{title:52}{'difference':>11}{'95 % interval':>22}{'p':>9}{'p Holm':>9}"]
    for value, by_structure in against.items():
        lines += [f"{value:<14}{difference_line(ROWS[s], one)}" for s, one in by_structure.items()]
    return [*lines, ""]


def measure(settings: BenchmarkSettings) -> None:
    axes = plan(settings)
    log = Log(
        settings.log,
        f"python benchmarks/replication.py --seed {settings.seed}, {settings.updates} updates of {BATCH} images each",
        f"{image_size(settings)} x {image_size(settings)} pixels; frames of training and validation together",
        "Dice on the real test patients, mean (standard error over patients), in native geometry",
    )
    reference = settings.replicate_folder / f"segmentation_real_{settings.seed}"
    real = patient_dice([reference]) if (reference / "metrics.csv").is_file() else {}
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    if real:
        log.say(f"{'real frames alone':40}{HEADING}\n{'':40}{describe(real)}\n")
    for axis, points in axes.items():
        log.say(f"{AXES[axis]:40}{HEADING}")
        found[axis] = {}
        for point in points:
            values = patient_dice([evaluate(point, settings)])
            found[axis][getattr(point, axis)] = values
            log.say(f"{getattr(point, axis):<40}{describe(values)}   {point}")
        log.say()
        for line in against_most(axis, points, settings):
            log.say(line)
    log.write()
    draw(found, real, settings.log.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))
