"""Reads what a sampling job has left in its folder."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def names(folder: Path, kind: str = "samples") -> set[str]:
    return {path.stem for path in (folder / kind).iterdir()}


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_images(one: Path, other: Path, tolerance: int = 1) -> None:
    assert names(one) == names(other)
    for name in names(one):
        assert abs(png(one / f"samples/{name}.png") - png(other / f"samples/{name}.png")).max() <= tolerance, name
