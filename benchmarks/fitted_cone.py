"""How well `--cone fit` finds the ultrasound cone of real frames that are spoilt, against the plain rule.

The log goes to benchmarks/results/fitted_cone.txt.

    python benchmarks/fitted_cone.py --releases FOLDER ... [--log FILE]

Of each frame of the CAMUS releases, at 256 x 256 by the published rule, the exact cone (the image is not 0) is compared
with what both rules find after the frame was changed. The measure is Jaccard's index.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from timing import RESULTS, ROOT, Log

sys.path.insert(0, str(ROOT / "data_preparation"))
from camus import VIEW_NAMES, find_release  # noqa: E402
from command import run_command  # noqa: E402
from cone import doubtful, fitted_cone, plain_cone  # noqa: E402
from medical_images import read_frame  # noqa: E402
from resizing import resize_nearest  # noqa: E402

SIZE = 256


@dataclass
class BenchmarkSettings:
    releases: tuple[Path, ...]
    """CAMUS releases, MHD or NIfTI."""
    log: Path = RESULTS / "fitted_cone.txt"
    """Where the comparison is written."""


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def changed(image: np.ndarray) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).normal(3, 2, image.shape)
    return {
        "as it is": image,
        "grey level + 1": np.minimum(image, 254) + 1,
        "grey level + 10": np.minimum(image, 245) + 10,
        "JPEG, quality 95": jpeg(image, 95),
        "JPEG, quality 75": jpeg(image, 75),
        "text in a corner": cv2.putText(image.copy(), "3.5MHz", (3, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 200, 1),
        "noise": np.clip(image + noise, 0, 255).astype(np.uint8),
    }


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def frames(folder: Path) -> list[np.ndarray]:
    """All frames of a release that are there, at SIZE x SIZE."""
    release = find_release(folder)
    files = [release.frame(*person, view).image for person in release.people for view in VIEW_NAMES]
    return [resize_nearest(read_frame(file).frames[0], SIZE, SIZE) for file in files if file.is_file()]


def measure(settings: BenchmarkSettings) -> None:
    log = Log(settings.log, packages=("numpy", "opencv-python-headless"))
    images = [image for folder in settings.releases for image in frames(folder)]
    found: dict[str, list[tuple[float, float, bool]]] = {}
    for image in images:
        exact = plain_cone(image)
        for kind, spoilt in changed(image).items():
            plain = plain_cone(spoilt)
            scores = jaccard(fitted_cone(spoilt), exact), jaccard(plain, exact), doubtful(plain) is not None
            found.setdefault(kind, []).append(scores)
    log.say(f"{len(images)} frames; Jaccard's index with the exact cone, mean (least)")
    log.say(f"{'':18} {'fit':>16} {'plain':>16}   told as doubtful")
    for kind, scores in found.items():
        fit, plain, told = np.array(scores, dtype=float).T
        means = [f"{values.mean():8.3f} ({values.min():.3f})" for values in (fit, plain)]
        log.say(f"{kind:18} {means[0]:>16} {means[1]:>16}   {int(told.sum())} of {len(told)}")
    log.write()


if __name__ == "__main__":
    sys.exit(run_command(measure, BenchmarkSettings, description=__doc__))
