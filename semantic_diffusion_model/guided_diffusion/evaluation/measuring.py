"""One pass over a set of frames: whatever is measured on them, batch by batch, so that pixels never pile up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from guided_diffusion.evaluation import speckle
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.features import Features
from guided_diffusion.evaluation.fingerprints import Nearest, fingerprints
from guided_diffusion.evaluation.frame_numbers import frame_numbers, grey_histograms
from guided_diffusion.evaluation.image_sets import Frame, batches
from guided_diffusion.evaluation.resampling import by_patient

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Images and label maps [B, H, W] uint8 -> an array [B, ...]."""


@dataclass(frozen=True)
class Measured:
    """`frames`, and by name what was measured on them, [N, ...] each."""

    frames: list[Frame]
    tables: dict[str, np.ndarray]

    @property
    def patients(self) -> list[str]:
        return [frame.patient for frame in self.frames]

    def by_patient(self, name: str) -> np.ndarray:
        """[P, ...]: means over the frames of each patient."""
        return by_patient(self.tables[name], self.patients)

    def __add__(self, other: "Measured") -> "Measured":
        common = self.tables.keys() & other.tables.keys()
        tables = {name: np.concatenate([self.tables[name], other.tables[name]]) for name in common}
        return Measured(self.frames + other.frames, tables)


def measures_of(classes: Classes, dynamic_range: float, networks: Mapping[str, Features]) -> dict[str, Measure]:
    """What is measured on every set: numbers, grey levels and spectrum of a frame, and features of each network."""
    found: dict[str, Measure] = {
        "numbers": partial(frame_numbers, classes=classes, dynamic_range=dynamic_range),
        "grey_levels": partial(_grey_shares, classes=classes),
        "spectrum": lambda images, labels: speckle.radial_spectrum(images, classes.shown(labels)),
    }
    return found | {name: _on_images(network) for name, network in networks.items()}


def _grey_shares(images: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    return speckle.shares(grey_histograms(images, labels, classes)).astype(np.float32)


def _on_images(network: Features) -> Measure:
    return lambda images, _: network(images)


def nearest_by(known: Nearest, classes: Classes) -> dict[str, Measure]:
    """The nearest training frame, as a further measure."""
    return {"nearest": lambda images, labels: known(fingerprints(images, labels, classes))}


def measure(
    frames: Sequence[Frame],
    measures: Mapping[str, Measure],
    classes: Classes,
    size: tuple[int, int],
    batch_size: int,
    title: str,
) -> Measured:
    """Every measure on every frame. Raises UserError with all files that cannot be read, or are not of `size`."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for images, labels in batches(frames, classes, size, batch_size, title):
        for name, one in measures.items():
            parts[name].append(one(images, labels))
    return Measured(list(frames), {name: np.concatenate(part) for name, part in parts.items()})
