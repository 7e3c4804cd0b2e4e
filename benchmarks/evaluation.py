"""How long image_evaluate.py takes, and how much memory; the log goes to benchmarks/results/evaluation.txt.

    python benchmarks/evaluation.py --real_dir FOLDER [--synthetic_dir FOLDER] [--segmentation_model FILE] [--images N]

The synthetic images are those of `synthetic_dir`, or else real frames with noise, repeated by links under other names
until there are as many as `images`: what is timed depends on their number and size alone.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "semantic_diffusion_model"))
from command import UserError, run_command  # noqa: E402


@dataclass
class BenchmarkSettings:
    real_dir: Path
    """Real frames with their sector labels, as image_evaluate.py takes them."""
    synthetic_dir: Path | None = None
    """Synthetic frames of the same size; default: the real ones of training with noise."""
    segmentation_model: Path | None = None
    """model.pth, for distances in features too."""
    images: int = 9000
    """Synthetic images to evaluate."""
    threads: int = 2
    """Of PyTorch and the linear algebra."""
    log: Path = RESULTS / "evaluation.txt"
    """Where the results are written."""


def sources(settings: BenchmarkSettings, work: Path) -> list[tuple[Path, Path]]:
    """Image and label map of each synthetic frame that there is."""
    if settings.synthetic_dir:
        samples = sorted((settings.synthetic_dir / "samples").glob("*.png"))
        return [(path, settings.synthetic_dir / "labels" / path.name) for path in samples]
    generator, found = np.random.default_rng(0), []
    for path in sorted((settings.real_dir / "images" / "training").glob("*.png")):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        noisy = np.clip(image + generator.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(work / path.name), noisy)
        found.append((work / path.name, settings.real_dir / "sector_annotations" / "training" / path.name))
    return found


def measure(settings: BenchmarkSettings) -> None:
    """Time the command on as many images as asked, and write the log."""
    words = [sys.executable, ROOT / "semantic_diffusion_model" / "image_evaluate.py", "--real_dir", settings.real_dir]
    if settings.segmentation_model:
        words += ["--segmentation_model", settings.segmentation_model]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "noisy").mkdir()
        for kind in ("samples", "labels"):
            (work / "made" / kind).mkdir(parents=True)
        pairs = sources(settings, work / "noisy")
        if not pairs:
            raise UserError(f"no images in {settings.synthetic_dir or settings.real_dir}")
        for number, pair in enumerate(islice(cycle(pairs), settings.images)):
            name = f"{pair[0].stem}_r{number // len(pairs)}.png"
            for kind, path in zip(("samples", "labels"), pair, strict=True):
                (work / "made" / kind / name).symlink_to(path.resolve())
        size = "{} x {}".format(*cv2.imread(str(pairs[0][0]), cv2.IMREAD_UNCHANGED).shape[:2])
        about = f"image_evaluate.py, {settings.images} synthetic images of {size} pixels, {settings.threads} threads"
        about += ", with features" if settings.segmentation_model else ", without features"
        log = Log(settings.log, about, packages=("torch", "numpy", "scipy"))
        start = time.perf_counter()
        words += ["--synthetic_dir", work / "made", "--output_dir", work / "out"]
        done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1])
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        log.say(done.stdout.splitlines()[0])
        log.say(f"{seconds:6.1f} s from start to end (aim 600 s for 9000 of 64 x 64), CPU time {cpu:.1f} s")
        log.say(f"{used.ru_maxrss / 1e6:6.2f} GB at most (aim 4 GB)")
        log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))
