"""The default segmentation on real CAMUS, several seeds, in native geometry; log: results/segmentation_camus.txt.

    python benchmarks/segmentation_camus.py --camus RELEASE --work FOLDER [--seeds 0 1 2] [--epochs 12]

Extracts the release, trains each seed, and evaluates it on the validation and test patients, with and without test-time
augmentation and removal of stray parts. What FOLDER has already is not done again: a broken run goes on where it ended.
Half an hour per seed on one quiet core, an hour on a busy one.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from project_commands import run
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "echo_segmentation"))
from command import UserError, run_command  # noqa: E402
from ejection_fraction import agreement  # noqa: E402
from rows import column, missed, read_rows  # noqa: E402

SIZE = 128
STRUCTURES = {"lv_endo": "endocardium", "lv_epi": "epicardium", "lv_myo": "myocardium", "la": "atrium"}
OPTIONS = {
    "plain": (),
    "mirror": ("--test-time-augmentation",),
    "parts": ("--remove-stray-parts",),
    "both": ("--test-time-augmentation", "--remove-stray-parts"),
}
SPLITS = ("validation", "testing")
TRAINING = ("--img-size", str(SIZE), "--batch-size", "8", "--loss", "dice_ce", "--min-lr", "1e-5")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass
class BenchmarkSettings:
    camus: Path
    """The CAMUS release (NIfTI or MHD)."""
    work: Path
    """Folder for views, runs and evaluations."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A training for each."""
    epochs: int = 12
    """Of each training."""
    log: Path = RESULTS / "segmentation_camus.txt"
    """Where the results are written."""


def run_script(script: str, *flags: object) -> float:
    """A command of the project, on one thread; its seconds."""
    return run(ROOT / script, *flags, **ONE_THREAD)


def extract(camus: Path, work: Path) -> Path:
    views = work / f"views{SIZE}"
    if not views.exists():
        run_script("data_preparation/extract_camus_data.py", "--camus_data_folder", camus, "--save_folder_path", views,
            "--save_img_size", SIZE, "--image_interpolation", "area")  # fmt: skip
    return views / "all_views"


def train(data: Path, work: Path, seed: int, epochs: int) -> Path:
    """A run's folder; run.txt in it says which code made it, and in how many seconds."""
    folder = work / "runs" / f"seed{seed}_{epochs}"
    if not (folder / "run.txt").exists():
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        flags = ("--data-dir", data, "--output-dir", folder, "--gpu", "cpu", "--num-workers", 0)
        seconds = run_script("echo_segmentation/runner.py", *flags, *TRAINING, "--epochs", epochs, "--seed", seed)
        (folder / "run.txt").write_text(
            f"commit {head.stdout.strip() or 'unknown'}, {seconds:.0f} s since its last start\n"
        )
    return folder


def evaluate(data: Path, camus: Path, work: Path, trained: Path, options: str, split: str) -> Path:
    """The folder of one evaluation in native geometry, of what `train` returned."""
    folder = work / "evaluated" / f"{trained.name}_{options}_{split}"
    if not (folder / "summary.json").exists():
        run_script("echo_segmentation/test_model.py", "--data-dir", data, "--model-path", trained / "model.pth",
            "--output-dir", folder, "--native-dir", camus, "--split", split, "--gpu", "cpu", "--num-workers", 0,
            "--batch-size", 8, *OPTIONS[options])  # fmt: skip
    return folder


def patient_means(folder: Path, structure: str, metric: str) -> dict[str, float]:
    """Of the frames of each patient in which the metric is defined."""
    rows = read_rows(folder / "metrics.csv")
    values: dict[str, list[float]] = {}
    for row, value in zip(rows, column(rows, structure, metric), strict=True):
        if np.isfinite(value):
            values.setdefault(row["patient"], []).append(value)
    return {patient: float(np.mean(found)) for patient, found in values.items()}


def over_seeds(folders: list[Path], structure: str, metric: str) -> np.ndarray:
    """For each patient the mean over the seeds, (patients,)."""
    found = [patient_means(folder, structure, metric) for folder in folders]
    return np.array(
        [np.mean([one[patient] for one in found]) for patient in sorted(set.intersection(*map(set, found)))]
    )


def ejection_fraction(folder: Path) -> dict[str, float]:
    rows = read_rows(folder / "ejection_fraction.csv", ("patient",), ("ef_predicted", "ef_reference"))
    return agreement([row["ef_predicted"] for row in rows], [row["ef_reference"] for row in rows])


def report_seed(log: Log, seed: int, folder: Path) -> None:
    cells = []
    rows = read_rows(folder / "metrics.csv")
    for structure in STRUCTURES:
        dice, distance = column(rows, structure, "dice"), column(rows, structure, "msd")
        note = f" ({found} missed)" if (found := missed(rows, structure).sum()) else ""
        mean = f"{structure} {np.nanmean(dice):.4f} +/- {np.nanstd(dice, ddof=1):.4f}"
        cells.append(f"{mean}, msd {np.nanmean(distance):.2f}{note}")
    ef = ejection_fraction(folder)
    log.say(f"    seed {seed}  " + "  ".join(cells))
    log.say(f"            ejection fraction: {ef['n']} patients, r {ef['correlation']:.3f}, bias {ef['bias']:+.2f}, "
            f"deviation {ef['sd']:.2f}, mean absolute error {ef['mean_absolute']:.2f} %")  # fmt: skip


def report(log: Log, evaluated: dict[tuple[str, str], dict[int, Path]]) -> None:
    """Per split and options, each seed, then means over seeds with their standard error over patients."""
    for split in SPLITS:
        for options, flags in OPTIONS.items():
            folders = evaluated[options, split]
            log.say(f"{split}, {' '.join(flags) or 'no options'}")
            for seed, folder in folders.items():
                report_seed(log, seed, folder)
            for structure, name in STRUCTURES.items():
                values = over_seeds(list(folders.values()), structure, "dice")
                plain = over_seeds(list(evaluated["plain", split].values()), structure, "dice")
                change = values - plain
                against = f"; against no options {change.mean():+.4f} ({standard_error(change):.4f})" if flags else ""
                log.say(f"    {name:12s} Dice {values.mean():.4f} (standard error {standard_error(values):.4f}, "
                        f"{len(values)} patients){against}")  # fmt: skip
            fractions = [ejection_fraction(folder) for folder in folders.values()]
            means = {key: np.mean([one[key] for one in fractions]) for key in ("mean_absolute", "correlation", "bias")}
            log.say(f"    EF           mean absolute error {means['mean_absolute']:.2f} %, "
                    f"r {means['correlation']:.3f}, bias {means['bias']:+.2f} % (means over the seeds)")  # fmt: skip
            log.say()


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def measure(settings: BenchmarkSettings) -> None:
    if not settings.camus.is_dir():
        raise UserError(f"camus {settings.camus} is not a folder: give that of a CAMUS release")
    packages = ("torch", "segmentation-models-pytorch", "albumentations")
    log = Log(settings.log, "one thread for each command", packages=packages)
    data = extract(settings.camus, settings.work)
    log.say(f"data: CAMUS extracted with --save_img_size {SIZE} --image_interpolation area; frames of each split and")
    log.say(
        "    labels that predictions are compared with: those of the release, on its own pixel grid, distances in mm"
    )
    log.say(f"training: runner.py {' '.join(TRAINING)} --epochs {settings.epochs} --gpu cpu --num-workers 0 --seed N")
    trained = {seed: train(data, settings.work, seed, settings.epochs) for seed in settings.seeds}
    for seed, folder in trained.items():
        log.say(f"    seed {seed}: {(folder / 'run.txt').read_text().strip()}")
    log.say("evaluation: test_model.py --native-dir RELEASE --split SPLIT and the options named; per seed, mean and")
    log.say(
        "    standard deviation over frames; then means over the seeds, over patients whose frames are averaged first"
    )
    log.say()
    evaluated = {
        (name, split): {
            seed: evaluate(data, settings.camus, settings.work, run, name, split) for seed, run in trained.items()
        }
        for split in SPLITS
        for name in OPTIONS
    }
    report(log, evaluated)
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__.splitlines()[0]))
