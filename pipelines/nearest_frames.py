"""Has the diffusion model drawn, or remembered? Label, synthetic frame and nearest real training frame, side by side.

    python pipelines/nearest_frames.py FOLDER [COUNT [SEED]]

FOLDER is that of replicate.sh, or of the demo. The cases are drawn at random. Nearest is the frame of the same view
with the smallest root mean square difference in grey levels, inside the cone of the label map, after a blur that takes
the speckle away.
Writes nearest.png and nearest.txt, where real frames of validation patients, seen in no training, are the measure.
"""

import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: works without a display
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data_preparation"))
from command import UserError, whole_file  # noqa: E402
from dataset_description import camus  # noqa: E402
from names import Stem, parse_stem  # noqa: E402
from view_folders import read_image, read_label  # noqa: E402

COUNT = 8
BLUR = 1.0  # pixels, standard deviation
ROWS = ("label map", "synthetic", "nearest real\ntraining frame")
Case = tuple[Stem, np.ndarray, np.ndarray, float, Stem]  # sector label map, synthetic frame, distance, nearest frame


def frames(folder: Path) -> dict[str, np.ndarray]:
    """Stem -> grey values of the pictures of a folder."""
    return {path.stem: read_image(path) for path in sorted(folder.glob("*.png"))}


def blurred(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image.astype(np.float32), (0, 0), BLUR)


class Training:
    """The real training frames, to be searched."""

    def __init__(self, real: dict[str, np.ndarray]):
        self.stems = [parse_stem(name) for name in real]
        self.images = real
        self.blurred = np.array([blurred(image) for image in real.values()])

    def nearest(self, image: np.ndarray, stem: Stem, cone: np.ndarray) -> tuple[float, Stem]:
        """Root mean square difference within `cone`, and the frame, of those of the same view."""
        candidates = [i for i, other in enumerate(self.stems) if other.view == stem.view]
        difference = (self.blurred[candidates] - blurred(image))[:, cone]
        errors = np.sqrt(np.mean(difference**2, axis=1))
        return float(errors.min()), self.stems[candidates[int(errors.argmin())]]


def draw(cases: list[Case], training: Training, path: Path) -> None:
    """A column for each case, with the name of its label map above and that of the nearest frame."""
    figure, axes = plt.subplots(3, len(cases), figsize=(1.6 * len(cases), 5.4), squeeze=False, layout="constrained")
    for column, (stem, label, synthetic, distance, near) in zip(axes.T, cases, strict=True):
        column[0].imshow(camus().condition_colours[label], interpolation="nearest")
        column[1].imshow(synthetic, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        column[2].imshow(training.images[str(near)], cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
        for axis, title in zip(column, (shortened(stem), "", f"{shortened(near)}: {distance:.1f}"), strict=True):
            axis.set_title(title, fontsize=7)
            axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, title in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(title, fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def shortened(stem: Stem) -> str:
    """A name that fits above a small picture."""
    return str(stem).replace("patient", "").replace("_training", "").replace("_validation", " (val.)").replace("_", " ")


def search(folder: Path, count: int, seed: int) -> tuple[list[Case], list[float], Training]:
    """`count` synthetic frames drawn at random with their nearest training frames; how near as many validation frames
    come to theirs. Raises UserError where there are none.
    """
    real = folder / "views" / "all_views" / "images"
    training, validation = Training(frames(real / "training")), frames(real / "validation")
    rng = np.random.default_rng(seed)
    drawn = sorted((folder / "results").rglob("samples/*.png"))
    if not (drawn and training.images and validation):
        raise UserError(f"{folder}: no synthetic frames in results/, or no real ones in views/all_views")
    drawn = [drawn[i] for i in sorted(rng.permutation(len(drawn))[:count])]
    views = {stem.view for stem in training.stems}
    if missing := {stem.view for path in drawn if (stem := parse_stem(path.stem)).view not in views}:
        raise UserError(f"{folder}: views/all_views has no training frame of {', '.join(sorted(missing))}")
    cases = []
    for path in drawn:
        stem, label = parse_stem(path.stem), read_label(path.parents[1] / "labels" / path.name)
        synthetic = read_image(path)
        cases.append((stem, label, synthetic, *training.nearest(synthetic, stem, label != 0)))
    held_out = [parse_stem(name) for name in rng.permutation(list(validation))[:count]]
    cones = folder / "sector" / "all_views_sector" / "sector_annotations" / "validation"
    measure = [training.nearest(validation[str(s)], s, read_label(cones / f"{s}.png") != 0)[0] for s in held_out]
    return cases, measure, training


def report(folder: Path, count: int = COUNT, seed: int = 0) -> str:
    """Draw `count` cases, and tell how near they are to real training frames, and real validation frames are."""
    cases, measure, training = search(folder, count, seed)
    draw(cases, training, folder / "nearest.png")
    searched = [(stem, near) for stem, _, _, _, near in cases if stem.split == "training"]
    own = sum(near.source == stem.source for stem, near in searched)
    distances = np.array([distance for *_, distance, _ in cases])
    return "\n".join(
        (
            f"nearest real training frame, rms difference in grey levels inside the cone (blurred by {BLUR:g} pixel)",
            f"of {len(cases)} synthetic frames: median {np.median(distances):.1f}, smallest {distances.min():.1f}",
            f"of {len(measure)} real frames of validation patients: median {np.median(measure):.1f}, "
            f"smallest {np.min(measure):.1f}",
            f"the nearest is the frame whose label map was deformed: {own} of {len(searched)} (of training patients)",
        )
    )


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4 or not all(map(str.isdecimal, sys.argv[2:])) or sys.argv[2:3] == ["0"]:
        told = "name the folder of replicate.sh, or of the demo; then a count, and a seed"
        sys.exit(print(f"error: {told}", file=sys.stderr) or 2)
    try:
        text = report(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    print(text)
    Path(sys.argv[1], "nearest.txt").write_text(text + "\n")
