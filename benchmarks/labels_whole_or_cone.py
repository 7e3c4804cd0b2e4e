"""Which labels of synthetic frames teach better, whole ones or those cut at the cone?

The log goes to benchmarks/results/labels_whole_or_cone.txt.

    python benchmarks/labels_whole_or_cone.py --demo_folder FOLDER [--seeds 0 1] [--log FILE]

FOLDER is that of a demo (pipelines/demo.sh, on CAMUS or phantoms) whose sampling is done. The segmentation learns from
the same synthetic frames with either kind of label, and is evaluated on the real frames of the validation patients.
"""

import csv
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from project_commands import run
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from command import UserError, run_command  # noqa: E402

KINDS = ("cone", "whole")
STRUCTURES = ("lv_endo", "lv_epi", "la")
METRICS = {"dice": "Dice", "dice_cone": "Dice within the cone"}


@dataclass
class BenchmarkSettings:
    demo_folder: Path
    """Of pipelines/demo.sh: its views, augmented and results folders are used."""
    seeds: tuple[int, ...] = (0, 1)
    """A training for each kind of label and each seed."""
    epochs: int = 15
    """Of each training; the demo's number."""
    log: Path = RESULTS / "labels_whole_or_cone.txt"
    """Where the results are written. Trainings that were finished are kept in demo_folder and not done again."""


def evaluated(settings: BenchmarkSettings, kind: str, seed: int) -> Path:
    """metrics.csv of a network that learned from labels of `kind`, on real validation frames."""
    demo = settings.demo_folder
    data, out = demo / f"segmentation_data_{kind}", demo / f"labels_{kind}_{seed}_{settings.epochs}"
    if not data.exists():
        run(
            *(ROOT / "data_preparation/prepare_inference4segmentation.py", "--testing_data_folder", demo / "views"),
            *("--sdm_results_folder", demo / "results", "--save_folder", data, "--labels", kind),
            *(("--augmented_folder", demo / "augmented") if kind == "whole" else ()),
        )
    table = out / "validation" / "metrics.csv"
    if not table.exists():
        run(
            *(ROOT / "echo_segmentation/runner.py", "--data-dir", data / "all_views", "--output-dir", out),
            *("--img-size", 64, "--batch-size", 16, "--epochs", settings.epochs, "--loss", "dice_ce", "--seed", seed),
            *("--num-workers", 0, "--gpu", "cpu", "--test-viz-num", 0),
        )
        run(
            *(
                ROOT / "echo_segmentation/test_model.py",
                "--data-dir",
                demo / "views/all_views",
                "--split",
                "validation",
            ),
            *("--model-path", out / "model.pth", "--output-dir", table.parent, "--num-workers", 0, "--gpu", "cpu"),
        )
    return table


def patient_means(table: Path) -> dict[str, dict[str, float]]:
    """<structure>_<metric> -> patient -> mean over the patient's frames; a frame without a value is left out."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name in (f"{structure}_{metric}" for structure in STRUCTURES for metric in METRICS):
                if row[name]:
                    found[name][row["patient"]].append(float(row[name]))
    return {name: {who: float(np.mean(values)) for who, values in of.items()} for name, of in found.items()}


def paired(means: dict[str, list[dict[str, dict[str, float]]]], name: str) -> str:
    """Both kinds' means over patients and seeds, and their difference with its standard error over patients."""
    patients = sorted(means["cone"][0][name])
    cone, whole = (np.array([[one[name][patient] for patient in patients] for one in means[kind]]) for kind in KINDS)
    difference = (whole - cone).mean(axis=0)
    error = difference.std(ddof=1) / np.sqrt(len(patients))
    seeds = " ".join(f"{one:+.4f}" for one in (whole - cone).mean(axis=1))
    found = f"{cone.mean():10.4f}{whole.mean():10.4f}    {difference.mean():+.4f} +/- {error:.4f}"
    return f"{found} (standard error, {len(patients)} patients; by seed {seeds})"


def compare(settings: BenchmarkSettings) -> None:
    """Train, evaluate, and write the log."""
    if not (settings.demo_folder / "results" / "samples").is_dir():
        raise UserError(f"demo_folder {settings.demo_folder} is no folder of a finished demo")
    made = len(list((settings.demo_folder / "results" / "samples").glob("*.png")))
    about = (
        f"{made} synthetic frames as pipelines/demo.sh made them (its steps 2 to 6, default settings)",
        f"segmentation from synthetic frames: {settings.epochs} epochs at 64 x 64, batch 16, dice_ce",
        f"seeds {settings.seeds}; evaluated on the real frames of the validation patients (whole labels)",
    )
    log = Log(settings.log, *about, packages=("torch", "albumentations"))
    means = {kind: [patient_means(evaluated(settings, kind, seed)) for seed in settings.seeds] for kind in KINDS}
    for metric, title in METRICS.items():
        log.say(f"{title:22}" + "".join(f"{kind:>10}" for kind in KINDS) + "    whole - cone, paired by patient")
        for structure in STRUCTURES:
            log.say(f"{structure:22}" + paired(means, f"{structure}_{metric}"))
        log.say()
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(compare, BenchmarkSettings, description=__doc__))
