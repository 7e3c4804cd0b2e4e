"""How long data preparation takes; the log goes to benchmarks/results/data_preparation.txt.

    python benchmarks/data_preparation.py --camus_nifti FOLDER [--num_workers 2] [--log FILE]

FOLDER is a complete CAMUS release in the NIfTI layout. Without it phantoms of the same number and size take its place.
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from project_commands import output_of
from timing import RESULTS, ROOT, Log

COMMANDS = ROOT / "data_preparation"
sys.path.insert(0, str(COMMANDS))
from command import UserError, run_command  # noqa: E402


@dataclass
class BenchmarkSettings:
    camus_nifti: Path | None = None
    """A complete CAMUS release in the NIfTI layout (500 patients); default: 500 phantoms of 224 rows."""
    num_workers: int = 2
    """Processes of each command."""
    log: Path = RESULTS / "data_preparation.txt"
    """Where the results are written."""


def check_release(folder: Path | None) -> None:
    """Raises UserError unless it is a folder, or none is given."""
    if folder and not folder.is_dir():
        raise UserError(f"camus_nifti {folder} is not a folder: give that of a CAMUS release")


def cpu_seconds() -> float:
    """CPU time of all processes started so far that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(*arguments: object) -> tuple[float, float, str]:
    """Seconds from start to end of a command, CPU seconds of its processes, and its summary."""
    start, cpu = time.perf_counter(), cpu_seconds()
    told = [line for line in output_of(*arguments).splitlines() if line and not line.startswith("next: ")]
    return time.perf_counter() - start, cpu_seconds() - cpu, told[-1]


def measure(settings: BenchmarkSettings) -> None:
    """Time the three jobs whose speed is promised, and write the log."""
    check_release(settings.camus_nifti)
    workers = ("--num_workers", settings.num_workers)
    about = f"{settings.num_workers} workers; seconds from start to end of a command, and CPU time of its processes"
    log = Log(settings.log, about, packages=("numpy", "opencv-python-headless", "SimpleITK"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)

        def job(aim: int | None, name: str, *arguments: object) -> None:
            seconds, cpu, summary = timed(COMMANDS / f"{name}.py", *arguments, *workers)
            summary = summary.split(f", in {work}")[0].split(f" in {work}")[0].split(f" of {work}")[0]
            wanted = f"aim {aim} s" if aim else "no aim"
            log.say(f"{seconds:6.1f} s ({wanted}; CPU {cpu:.1f} s)  {name}: {summary}")

        job(20, "make_phantom_camus", "--save_folder", work / "phantoms")
        source = settings.camus_nifti
        if source is None:
            source = work / "release"
            job(None, "make_phantom_camus", "--save_folder", source, "--n_patients", 500, "--size", 224)
        job(15, "extract_camus_data", "--camus_data_folder", source, "--save_folder_path", work / "extracted")
        views = ("--data_folder", work / "extracted" / "all_views", "--save_folder", work)
        job(30, "augment_camus_labels", *views)
        job(None, "augment_camus_labels", *views, "--add_augmentation", "False")
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__.splitlines()[0]))
