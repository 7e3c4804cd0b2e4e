"""How near the phantoms come to real frames, in numbers.

    python benchmarks/phantom_realism.py [--camus_nifti FOLDER] [--n_patients 100] [--num_workers 2]

Measures phantoms as frame_statistics.py defines it and sets them beside the quantiles of CAMUS in
benchmarks/results/camus_frames.csv; the log goes to benchmarks/results/phantom_realism.txt. With a complete CAMUS
release in the NIfTI layout that table is measured anew, on its training patients.
"""

import csv
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from frame_statistics import MeasuredFrame, at_common_size, collect, largest_gap, measure_patient
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from anatomy import PHASES, VIEWS  # noqa: E402
from camus import Release, find_release  # noqa: E402
from command import run_command, whole_file  # noqa: E402
from make_phantom_camus import draw_frames  # noqa: E402
from medical_images import read_medical_image  # noqa: E402
from parallel import for_each  # noqa: E402

TABLE = RESULTS / "camus_frames.csv"
LEVELS = np.arange(0.05, 0.96, 0.05)


@dataclass
class RealismSettings:
    camus_nifti: Path | None = None
    """A complete CAMUS release in the NIfTI layout: the table is measured anew on its training patients."""
    n_patients: int = 100
    """Phantoms to measure, four frames each."""
    seed: int = 0
    """Seed of the phantoms."""
    num_workers: int = 2
    """Processes that work at the same time; 0 works in this one."""
    log: Path = RESULTS / "phantom_realism.txt"
    """Where the comparison is written."""


def measure_real(patient: str, release: Release):
    """The numbers of one patient of a release."""
    frames: dict[tuple[str, str], MeasuredFrame] = {}
    for view in VIEWS:
        for phase in PHASES:
            files = release.frame("training", patient, f"{view}_{phase}")
            image, label = read_medical_image(files.image), read_medical_image(files.label)
            frames[view, phase] = at_common_size(image.frames[0], label.frames[0], image.spacing_mm)
    return measure_patient(frames)


def measure_phantom(index: int, seed: int):
    """The numbers of one phantom, as make_phantom_camus.py draws it at its own size."""
    _, _, frames = draw_frames(seed, index, rows=400)
    return measure_patient({key: at_common_size(*frame) for key, frame in frames.items()})


def read_table(path: Path = TABLE) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(levels, quantiles at these levels by measure) of a table that write_table wrote."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    levels = np.array([float(level) for level in header[2:]])
    return levels, {row[0]: np.array(row[2:], float) for row in rows}


def write_table(path: Path, measured: dict[str, np.ndarray]) -> None:
    """A row for each measure: its name, how many values, its quantiles."""
    with whole_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["measure", "values", *(f"{level:.2f}" for level in LEVELS)])
        for name, values in measured.items():
            writer.writerow([name, len(values), *(f"{value:.4g}" for value in np.quantile(values, LEVELS))])


def compare(settings: RealismSettings) -> None:
    """Measure, and write the log."""
    if settings.camus_nifti:
        release = find_release(settings.camus_nifti)
        names = [patient for split, patient in release.people if split == "training"]
        work = partial(measure_real, release=release)
        write_table(TABLE, collect(list(for_each(work, names, settings.num_workers, "real frames"))))
    work = partial(measure_phantom, seed=settings.seed)
    phantoms = collect(list(for_each(work, range(settings.n_patients), settings.num_workers, "phantoms")))
    about = f"{settings.n_patients} phantoms, seed {settings.seed}, against {TABLE.relative_to(ROOT)}"
    log = Log(settings.log, about, packages=("numpy", "opencv-python-headless", "scipy"))
    levels, real = read_table()
    shown = [0.05, 0.25, 0.5, 0.75, 0.95]
    log.say(f"{'quantiles':24s}{'':6s}" + "".join(f"{level:8.2f}" for level in shown) + "     gap")
    for name, quantiles in real.items():
        rows = {"CAMUS": np.interp(shown, levels, quantiles), "drawn": np.quantile(phantoms[name], shown)}
        for who, values in rows.items():
            gap = f"{largest_gap(phantoms[name], levels, quantiles):8.2f}" if who == "drawn" else ""
            log.say(f"{name if who == 'CAMUS' else '':24s}{who:6s}" + "".join(f"{v:8.2f}" for v in values) + gap)
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(compare, RealismSettings, description=__doc__.splitlines()[0]))
