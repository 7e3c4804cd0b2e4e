"""Made-up data sets that are not CAMUS: fetal heads (three classes, no sector), and stills of one view of a heart.

python tests/own_data/made_up_sets.py FOLDER   draws 30 fetal heads, from both sides, to try docs/own_data.md with
"""

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HEADS = {
    "name": "Fetal heads",
    "names": {
        "pattern": r"(?P<patient>HC_\d+) \((?P<view>left|right)\)",
        "table": {"path": "splits.csv", "columns": {"file": "picture", "split": "set"}},
    },
    "classes": [
        {"name": "background"},
        {"name": "skull", "colour": [230, 159, 0]},
        {"name": "brain", "colour": [86, 180, 233]},
        {"name": "cavum", "colour": [213, 94, 0]},
    ],
    "reported": {"head": [1, 2, 3], "skull": [1], "cavum": {"classes": [3], "title": "cavum septi pellucidi"}},
    "keep_whole": [1, 2, 3],
    "spacing_mm": [1.5, 1.5],
}
STILLS = {
    "name": "Stills",
    "names": {"pattern": r"(?P<patient>[A-Z]{4})_\d+"},
    "classes": [{"name": "background", "value": 0}, {"name": "ventricle", "value": 255}],
    "sector": {"outside": 0, "inside": 1},
}


def ellipse(size: int, centre: tuple[float, float], axes: tuple[float, float], degrees: float) -> np.ndarray:
    """A filled ellipse, bool [size, size]; centre and half axes (x, y) as shares of the size."""
    mask = np.zeros((size, size), np.uint8)
    points = tuple(round(size * share) for share in centre), tuple(round(size * share) for share in axes)
    return cv2.ellipse(mask, *points, degrees, 0, 360, 1, -1).astype(bool)


def speckle(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey values [height, width] uint8 around `means`, 1 at least, with a grain as ultrasound has."""
    grain = cv2.GaussianBlur(rng.rayleigh(0.8, means.shape), (3, 3), 0)
    return np.clip(means * grain, 1, 255).astype(np.uint8)


def draw_head(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of a head, uint8 [size, size]: 1 skull, 2 brain, 3 cavum."""
    centre = rng.uniform(0.46, 0.54, 2)
    axes, degrees = rng.uniform(0.3, 0.38) * np.array([1, rng.uniform(0.72, 0.82)]), rng.uniform(-25, 25)
    label = np.zeros((size, size), np.uint8)
    for value, share in ((1, 1.0), (2, 0.84)):
        label[ellipse(size, centre, axes * share, degrees)] = value
    turn = np.radians(degrees)
    shifted = centre + 0.4 * axes[0] * np.array([np.cos(turn), np.sin(turn)])
    label[ellipse(size, shifted, axes * (0.22, 0.18), degrees)] = 3
    return speckle(np.array([40, 190, 80, 15])[label], rng), label


def write_heads(folder: Path, patients: int = 12, size: int = 64, seed: int = 0) -> Path:
    """Both sides of `patients` heads below `folder`: pictures/, maps/, splits.csv; the path of dataset.json."""
    rng = np.random.default_rng(seed)
    for name in ("pictures", "maps"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    few = max(1, round(patients / 5))
    rows = []
    for number in range(patients):
        split = "test" if number < few else "val" if number < 2 * few else "train"
        for side in ("left", "right"):
            name = f"HC_{number + 40:04d} ({side}).png"
            for kind, pixels in zip(("pictures", "maps"), draw_head(size, rng), strict=True):
                Image.fromarray(pixels).save(folder / kind / name)
            rows.append({"picture": name, "set": split})
    with open(folder / "splits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["picture", "set"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "dataset.json").write_text(json.dumps(HEADS, indent=2))
    return folder / "dataset.json"


def draw_still(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(image, label) of a ventricle in a sector, uint8 [height, width]: 255 is the ventricle, the outside is 0."""
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    sector = (np.abs(x - 0.5) < 0.05 + 0.6 * y) & (np.hypot(x - 0.5, y) < 0.95)
    inside = ((x - 0.5) / rng.uniform(0.1, 0.14)) ** 2 + ((y - rng.uniform(0.45, 0.5)) / 0.25) ** 2 < 1
    image = np.where(sector, speckle(np.where(inside, 15.0, 90.0), rng), 0)
    return image.astype(np.uint8), (inside * 255).astype(np.uint8)


def write_stills(folder: Path, patients: int = 10, seed: int = 0) -> Path:
    """Two stills of each patient in one folder, label maps beside them as *_mask; the path of dataset.json."""
    rng = np.random.default_rng(seed)
    (folder / "frames").mkdir(parents=True)
    for number in range(patients):
        patient = "".join(rng.choice(list("ABCDEFGH"), 3)) + chr(ord("A") + number)
        for still in range(2):
            for ending, pixels in zip(("", "_mask"), draw_still(48, 64, rng), strict=True):
                Image.fromarray(pixels).save(folder / "frames" / f"{patient}_{still}{ending}.png")
    names = STILLS["names"] | {"label_ending": "_mask"}
    (folder / "dataset.json").write_text(json.dumps(STILLS | {"names": names}))
    return folder / "dataset.json"


if __name__ == "__main__":
    print(write_heads(Path(sys.argv[1]), patients=30))
