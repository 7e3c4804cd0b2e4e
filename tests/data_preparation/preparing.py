"""Sampling results as the sampler would leave them, and the command that prepares them."""

import shutil
from pathlib import Path

import numpy as np

from view_folders import encode_png

VIEWS = ("2CH_ED", "4CH_ES")  # of `results`


def prepare(run, testing, results, out, *flags):
    paths = ("--testing_data_folder", testing, "--sdm_results_folder", results, "--save_folder", out)
    return run("prepare_inference4segmentation", *paths, *flags)


def sample(view_folder: Path, results: Path, suffix: str = "") -> None:
    """Sampling results of a deformed view folder: noise as images, under the names that the sampler gives."""
    stems = []
    for folder in ("samples", "labels"):
        (results / folder).mkdir(parents=True, exist_ok=True)
    for path in sorted((view_folder / "sector_annotations").rglob("*.png")):
        stem = path.stem + suffix
        rng = np.random.default_rng(len(stems))
        image = np.repeat(rng.integers(0, 256, (64, 64, 1), dtype=np.uint8), 3, axis=2)
        (results / "samples" / f"{stem}.png").write_bytes(encode_png(image))
        shutil.copy(path, results / "labels" / f"{stem}.png")
        stems.append(f"{stem},{path}")
    with open(results / "manifest.csv", "a") as file:
        file.write("\n".join(["stem,label_map" if not suffix else "", *stems]).strip() + "\n")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
