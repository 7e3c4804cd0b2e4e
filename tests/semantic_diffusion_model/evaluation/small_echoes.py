"""Small echoes: a cone with a ventricle, its wall and an atrium, of another shape and speckle for each patient."""

from pathlib import Path

import cv2
import numpy as np

SIZE = 64
LEVELS = (0, 60, 90, 120, 70)  # mean grey level by class


def draw_label(generator: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    """Sector classes [SIZE, SIZE] uint8: 0 outside, 1 cavity, 2 the rest of the cone, 3 myocardium, 4 atrium."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(float)
    label = np.where(np.abs(columns - 31.5) < 0.62 * rows + 1, 2, 0).astype(np.uint8)
    x, y = 31.5 + generator.normal(0, 2) + shift, 28 + generator.normal(0, 2)
    width, height = generator.uniform(6, 9), generator.uniform(11, 15)
    distance = np.hypot((columns - x) / width, (rows - y) / height)
    wall = 1 + generator.uniform(3, 4.5) / width
    inside = label > 0
    label[(distance < wall) & inside] = 3
    label[(distance < 1) & inside] = 1
    atrium = np.hypot((columns - x) / width, (rows - y - height - 7) / 5) < 1
    label[atrium & (label == 2)] = 4
    return label


def draw_image(label: np.ndarray, generator: np.random.Generator, deviation: float = 25.0) -> np.ndarray:
    """Grey levels [SIZE, SIZE] uint8, 0 outside the cone: the mean of each class, correlated speckle, some haze."""
    noise = cv2.GaussianBlur(generator.normal(size=label.shape), (0, 0), sigmaX=1.2, sigmaY=0.8)
    haze = cv2.GaussianBlur(generator.normal(size=label.shape), (0, 0), 12)
    grey = np.array(LEVELS)[label] + deviation * noise / noise.std() + 12 * haze / haze.std() + generator.normal(0, 6)
    return np.where(label > 0, grey.clip(1, 255), 0).astype(np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_real(folder: Path, counts: dict[str, int], seed: int = 0) -> None:
    """A real_dir with `counts` patients of one frame in each split."""
    number = 0
    for split, count in counts.items():
        for _ in range(count):
            number += 1
            generator = np.random.default_rng([seed, number])
            label, name = draw_label(generator), f"patient{number:04d}_2CH_ED_{split}.png"
            write(folder / "sector_annotations" / split / name, label)
            write(folder / "images" / split / name, draw_image(label, generator))


def write_synthetic(
    folder: Path, real: Path, count: int, rounds: int = 1, deviation: float = 25.0, seed: int = 9
) -> None:
    """A results_dir: fresh speckle on the moved labels of the training frames, with a manifest."""
    rows = ["stem,label_map,index"]
    sources = sorted((real / "sector_annotations" / "training").iterdir())
    for i in range(count):
        for turn in range(rounds):
            generator = np.random.default_rng([seed, i, turn])
            source = sources[i % len(sources)]
            moved = np.roll(cv2.imread(str(source), 0), int(np.random.default_rng([1, i]).integers(-3, 4)), 1)
            name = f"{source.stem}_{i // len(sources)}"
            stem = f"{name}_r{turn}" if turn else name
            write(folder / "labels" / f"{stem}.png", moved)
            write(folder / "samples" / f"{stem}.png", draw_image(moved, generator, deviation))
            rows.append(f"{stem},data/{name}.png,{len(rows) - 1}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
