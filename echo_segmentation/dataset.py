"""Decoded cases: checked, brought to one size, and kept in memory where they fit."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from cases import Case
from command import UserError
from cores import usable_cores
from picture_files import decode_image, decode_labels, read_bytes

SECTOR_CLASSES = 5
TIE_WEIGHT = 1e-3  # of the neighbours' shares: too little to overrule a pixel's own


@dataclass
class CaseSet:
    """Cases of one split at size x size. `arrays` is None for a set too large for the memory: it is read from files."""

    cases: list[Case]
    size: int
    grey_histogram: np.ndarray
    """How often each grey value 0 .. 255 occurs, over all images at their size here."""
    arrays: tuple[np.ndarray, np.ndarray] | None
    """Images and labels, each (cases, size, size) uint8."""
    digest: str = ""
    """Of the names, images and labels of all cases, and of how often each is drawn: equal for equal data."""
    drawn: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    """Of each image that a pass in training draws, the place of its case; each case once, unless given."""

    def __post_init__(self):
        if not len(self.drawn):
            self.drawn = np.arange(len(self.cases))

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and label of one case, (size, size) uint8 each."""
        if self.arrays is not None:
            return self.arrays[0][index], self.arrays[1][index]
        return read_case(self.cases[index], self.size)

    def shuffled(self, seed: int) -> "CaseSet":
        """The same cases in a random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        arrays = self.arrays and tuple(array[order] for array in self.arrays)
        return replace(self, cases=[self.cases[i] for i in order], arrays=arrays)

    def oversampled(self, count: int, times: int) -> "CaseSet":
        """The same cases, of which a pass draws the first `count` so many times, and the others once."""
        places = np.arange(len(self))
        drawn = np.concatenate([np.tile(places[:count], times), places[count:]])
        own = hashlib.sha256(self.digest.encode() + drawn.tobytes()).hexdigest()
        return replace(self, drawn=drawn, digest=self.digest if times == 1 else own)

    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation of all pixels, as grey values from 0 to 1. Raises UserError if all are one value,
        which nothing can be divided by or learned from."""
        if np.count_nonzero(self.grey_histogram) == 1:
            value, folder = self.grey_histogram.argmax(), self.cases[0].image.parent
            raise UserError(
                f"{folder}: the training images all have one grey value, {value}: are these the right ones?"
            )
        values = np.arange(256) / 255
        weights = self.grey_histogram / self.grey_histogram.sum()
        mean = float(weights @ values)
        return mean, float(np.sqrt(weights @ (values - mean) ** 2))


def read_image(path: Path) -> np.ndarray:
    """Grey values (height, width) uint8 of a picture. Raises UserError."""
    return decode_image(read_bytes(path), str(path))


def read_annotation(path: Path) -> np.ndarray:
    """Class values (height, width) uint8 of a label map. Raises UserError."""
    return decode_labels(read_bytes(path), str(path))


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """To (size, size): area means along an axis that shrinks, linear along one that grows."""
    rows, columns = image.shape
    shrunk = cv2.resize(image, (min(size, columns), min(size, rows)), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)


def resize_annotation(annotation: np.ndarray, size: int) -> np.ndarray:
    """To (size, size): the class with the greatest share of a pixel, shares as `resize_image` takes grey values.

    So labels lie where the image does. Between equal shares (frequent at half the size) the neighbours decide: no class
    grows at another's cost.
    """
    if annotation.shape == (size, size):
        return annotation
    classes = np.unique(annotation)
    shares = [resize_image((annotation == value).astype(np.float32), size) for value in classes]
    votes = [share + TIE_WEIGHT * cv2.blur(share, (3, 3)) for share in shares]
    return classes[np.argmax(votes, axis=0)]


def read_case(case: Case, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map of a case at size x size, uint8. Raises UserError, also if their sizes on disk differ."""
    image, annotation = read_image(case.image), read_annotation(case.annotation)
    if image.shape != annotation.shape:
        shapes = f"the image is {image.shape}, its annotation {annotation.shape} (rows, columns)"
        raise UserError(f"{case.image}: {shapes}")
    return resize_image(image, size), resize_annotation(annotation, size)


def load_cases(cases: Sequence[Case], size: int, num_classes: int, cache_gb: float) -> CaseSet:
    """Decode and check all cases (files that cannot be read, sizes, class values) and keep them if they fit.

    Raises UserError with every problem found, by file.
    """
    in_memory = 2 * size * size * len(cases) <= cache_gb * 1e9
    images, labels = np.empty((2, len(cases) if in_memory else 0, size, size), np.uint8)
    histogram, problems, largest, digest = np.zeros(256, np.int64), [], 0, hashlib.sha256()

    def check(index: int) -> tuple[np.ndarray | None, int, str, bytes]:
        """Grey histogram, largest class, problem and digest of one case."""
        case = cases[index]
        try:
            image, label = read_case(case, size)
        except UserError as error:
            return None, 0, str(error), b""
        top = int(label.max())
        if in_memory:
            images[index], labels[index] = image, label
        wrong = f"{case.annotation}: class {top}" if top >= num_classes else ""
        own = hashlib.sha256(case.stem.encode() + image.tobytes() + label.tobytes()).digest()
        return np.bincount(image.ravel(), minlength=256), top, wrong, own

    with ThreadPoolExecutor(usable_cores()) as threads:
        for counts, top, wrong, own in threads.map(check, range(len(cases))):
            histogram += counts if counts is not None else 0
            largest = max(largest, top)
            digest.update(own)
            problems += [wrong] if wrong else []
    if problems:
        raise UserError(_what_is_wrong(num_classes, largest, len(problems)), problems)
    return CaseSet(list(cases), size, histogram, (images, labels) if in_memory else None, digest.hexdigest())


def _what_is_wrong(num_classes: int, largest: int, count: int) -> str:
    if largest < num_classes:
        return f"{count} cases cannot be used:"
    hint = "label maps scaled to be seen?" if largest >= SECTOR_CLASSES else "does --num-classes fit?"
    if num_classes == SECTOR_CLASSES - 1 and largest == SECTOR_CLASSES - 1:
        hint = "five-class sector labels of the diffusion model? Then run prepare_inference4segmentation.py on them"
    return f"{count} cases cannot be used; classes beyond 0 .. {num_classes - 1} (--num-classes {num_classes}): {hint}"
