"""Draw the README's figures from a finished demo on phantoms.

    python README_assets/figures.py [demo]

pipeline.png (the chain), SDM_example_views.png (synthetic frames of the four views), transforms.png (deformed label
maps) and nearest.png (synthetic frames beside the most similar training frames). Everything shown is simulated or
synthetic.
"""

import sys
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyArrowPatch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "pipelines"))
import nearest_frames  # noqa: E402

VIEWS = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
# Sector labels: outside, cavity, cone, myocardium, atrium; colours that colour-blind readers tell apart.
LABELS = ListedColormap(["#000000", "#e69f00", "#5a5a5a", "#009e73", "#56b4e9"])


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def show(axis, picture: np.ndarray, title: str = "", labels: bool = False) -> None:
    if labels:
        axis.imshow(picture, cmap=LABELS, vmin=0, vmax=4, interpolation="nearest")
    else:
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bicubic")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def stems_of(demo: Path, view: str, count: int) -> list[str]:
    """Names of synthetic frames of a view, of different patients."""
    names = sorted((demo / "results" / "samples").glob(f"*_{view}_training*_0.png"))
    return [path.stem for path in names[:: max(1, len(names) // count)][:count]]


def draw_views(demo: Path) -> None:
    """A row for each of label map, synthetic frame and the phantom whose label map was deformed; a view a column."""
    figure, axes = plt.subplots(3, len(VIEWS), figsize=(2.05 * len(VIEWS), 6.6), layout="constrained")
    for place, view in enumerate(VIEWS):
        stem = stems_of(demo, view, 2 * len(VIEWS))[2 * place + 1]  # of another patient each
        show(axes[0, place], read(demo / "results" / "labels" / f"{stem}.png"), f"{view}: label map", labels=True)
        show(axes[1, place], read(demo / "results" / "samples" / f"{stem}.png"), "synthetic")
        show(axes[2, place], read(demo / "results" / "images" / f"{stem}.png"), "phantom")
    save(figure, "SDM_example_views.png")


def draw_transforms(demo: Path) -> None:
    augmented = demo / "augmented" / "4CH_ED_augmented" / "sector_annotations" / "training"
    sector = demo / "sector" / "4CH_ED_sector"
    stems = [path.stem.removesuffix("_0") for path in sorted(augmented.glob("*_0.png"))[:2]]
    variants = [sorted(augmented.glob(f"{stem}_*.png"))[:5] for stem in stems]
    figure, axes = plt.subplots(2, 2 + len(variants[0]), figsize=(1.7 * (2 + len(variants[0])), 3.9))
    for row, stem, deformed in zip(axes, stems, variants, strict=True):
        show(row[0], read(sector / "images" / "training" / f"{stem}.png"), "frame")
        show(row[1], read(sector / "sector_annotations" / "training" / f"{stem}.png"), "its label map", labels=True)
        for axis, path in zip(row[2:], deformed, strict=True):
            show(axis, read(path), "deformed", labels=True)
    save(figure, "transforms.png")


def draw_pipeline(demo: Path) -> None:
    stem = stems_of(demo, "4CH_ED", 2)[1]
    original = stem.rsplit("_", 1)[0]
    sector = demo / "sector" / "4CH_ED_sector"
    tested = next((demo / "views" / "all_views" / "images" / "testing").glob("*_4CH_ED_testing.png"))
    predicted = demo / "segmentation_synthetic" / "predictions" / tested.name
    panels = [
        ("frame", read(sector / "images" / "training" / f"{original}.png"), False),
        ("sector labels", read(sector / "sector_annotations" / "training" / f"{original}.png"), True),
        ("deformed\n(affine, B-spline)", read(demo / "results" / "labels" / f"{stem}.png"), True),
        ("synthetic frame", read(demo / "results" / "samples" / f"{stem}.png"), False),
        ("frame of an\nunseen patient", read(tested), False),
        ("segmented", np.choose(read(predicted), (0, 1, 3, 4)), True),
    ]
    arrows = ["", "augment", "semantic\ndiffusion", "trains a\nU-Net,\ntested on", "predicts"]
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 2.5), gridspec_kw={"wspace": 0.6})
    for axis, (title, picture, labels) in zip(axes, panels, strict=True):
        show(axis, picture, title, labels)
    for left, right, text in zip(axes, axes[1:], arrows, strict=False):
        start, end = left.get_position(), right.get_position()
        y = (start.y0 + start.y1) / 2
        arrow = FancyArrowPatch(
            (start.x1 + 0.006, y),
            (end.x0 - 0.006, y),
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=14,
        )
        figure.add_artist(arrow)
        figure.text((start.x1 + end.x0) / 2, y + 0.06, text, ha="center", va="bottom", fontsize=7.5)
    save(figure, "pipeline.png")


def draw_nearest(demo: Path) -> None:
    """Cases drawn at random, as `make replicate` draws those of CAMUS."""
    cases, _, training = nearest_frames.search(demo, count=6, seed=0)
    nearest_frames.draw(cases, training, HERE / "nearest.png")
    print(HERE / "nearest.png")


def save(figure, name: str) -> None:
    figure.savefig(HERE / name, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(HERE / name)


if __name__ == "__main__":
    finished = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    if not (finished / "report.html").is_file():
        sys.exit(print(f"error: {finished} is no folder of a finished demo", file=sys.stderr) or 2)
    draw_views(finished)
    draw_transforms(finished)
    draw_pipeline(finished)
    draw_nearest(finished)
