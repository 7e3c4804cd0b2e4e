"""A NIfTI release of drawn hearts, in pixels that are not square."""

import csv
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk
from PIL import Image

from geometry import nearest_indices

NATIVE, SPACING = (200, 150), (0.6, 0.7)  # rows, columns; mm in depth and laterally: the frame of the drawn hearts
COLUMNS = ("source", "native_height", "native_width", "spacing_depth_mm", "spacing_lateral_mm", "image_interpolation")


def write(path, pixels):
    image = sitk.GetImageFromArray(pixels)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((5.0, -2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def draw(patient: int, view: str, phase: str) -> tuple[np.ndarray, np.ndarray]:
    """Image and label of a heart at native size: as in conftest.py, in native pixels."""
    rng = np.random.default_rng([patient, view == "4CH", phase == "ES"])
    rows, columns = np.mgrid[: NATIVE[0], : NATIVE[1]]
    rows, columns = rows / NATIVE[0], columns / NATIVE[1]
    centre, radius = 0.5 + rng.uniform(-0.05, 0.05), (0.8 if phase == "ES" else 1.0) * rng.uniform(0.13, 0.17)
    distance = np.hypot((rows - 0.45) / 2, columns - centre)
    label = np.zeros(NATIVE, np.uint8)
    label[distance < radius + 0.08], label[distance < radius] = 2, 1
    label[rows > 0.65] = 0
    label[(rows > 0.65) & (np.hypot(rows - 0.75, columns - centre) < 0.14)] = 3
    image = np.array([90, 20, 160, 240])[label] + rng.normal(0, 8, NATIVE)
    return image.clip(1, 255).astype(np.uint8), label


def make_release(root: Path) -> Path:
    """A NIfTI release of two patients, and the view folders extracted from it, by area and by the published rule."""
    rows = {"area": [], "nearest": []}
    for number in (1, 2):
        patient = f"patient{number:04d}"
        for view, phase in (("2CH", "ED"), ("2CH", "ES"), ("4CH", "ED"), ("4CH", "ES")):
            image, label = draw(number, view, phase)
            source = f"database_nifti/{patient}/{patient}_{view}_{phase}.nii.gz"
            write(root / "camus" / source, image)
            write(root / "camus" / source.replace(".nii", "_gt.nii"), label)
            stem = f"{patient}_{view}_{phase}_testing"
            for rule in rows:
                copied = np.ix_(*(nearest_indices(n, 64) for n in NATIVE))
                small = {"annotations": label[copied], "images": image[copied]}
                if rule == "area":
                    shares = [cv2.resize((label == c).astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
                              for c in range(4)]  # fmt: skip
                    small = {"annotations": np.argmax(shares, axis=0).astype(np.uint8)}
                    small["images"] = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
                for kind, pixels in small.items():
                    folder = root / rule / kind / "testing"
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / f"{stem}.png")
                known = {"stem": stem, "patient": patient, "view": view, "phase": phase, "split": "testing"}
                values = (source, *NATIVE, *SPACING, rule if rule == "area" else "")
                known["image_quality"] = "Good" if number == 1 else "Poor"
                rows[rule].append(known | dict(zip(COLUMNS, values, strict=True)))
    for rule, table in rows.items():
        with open(root / rule / "metadata.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return root
