"""Do images differ? Structural similarity between images of one label map, of different ones, and of real patients."""

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity

from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.image_sets import Frame, read_frame
from guided_diffusion.evaluation.resampling import interval

WINDOW = 7


def similarity(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], classes: Classes) -> float:
    """Structural similarity (Wang et al. 2004) of two frames (image, label map), [H, W] uint8 each, averaged over the
    pixels where either has a cone: outside, all images are alike. 1: the same image."""
    (image, label), (other, other_label) = first, second
    window = min(WINDOW, (min(image.shape) - 1) // 2 * 2 + 1)
    _, local = structural_similarity(image, other, win_size=window, data_range=255, full=True)
    return float(local[classes.shown(label) | classes.shown(other_label)].mean())


def pairs_of_one_map(frames: Sequence[Frame], most: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of frames of the same label map, drawn with different seeds: at most `most` of them."""
    groups: dict[str, list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(frame.label_map, []).append(index)
    pairs = [(a, b) for group in groups.values() for i, a in enumerate(group[:4]) for b in group[i + 1 : 4]]
    return [pairs[i] for i in generator.permutation(len(pairs))[:most]]


def pairs_of_patients(frames: Sequence[Frame], most: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Random pairs of frames of different patients; none if there is one patient alone."""
    patients = np.array([frame.patient for frame in frames])
    drawn = generator.integers(0, len(frames), (20 * most, 2))
    return [(int(a), int(b)) for a, b in drawn[patients[drawn[:, 0]] != patients[drawn[:, 1]]][:most]]


def mean_similarity(
    frames: Sequence[Frame], pairs: Sequence[tuple[int, int]], generator: np.random.Generator, classes: Classes
) -> dict:
    """Mean over `pairs`, with a bootstrap interval over them; nothing but a count of 0 without pairs."""
    if not pairs:
        return {"pairs": 0, "mean": None, "interval": None}
    read = {index: read_frame(frames[index], classes) for index in {i for pair in pairs for i in pair}}
    values = np.array([similarity(read[a], read[b], classes) for a, b in pairs])
    means = generator.choice(values, (1000, len(values))).mean(1)
    return {"pairs": len(pairs), "mean": float(values.mean()), "interval": interval(means)}


def report(synthetic: Sequence[Frame], real: Sequence[Frame], most: int, seed: int, classes: Classes) -> dict:
    """The entry `diversity` of evaluation.json."""
    found = {}
    for name, frames, choose in (
        ("synthetic_of_one_map", synthetic, pairs_of_one_map),
        ("synthetic_of_different_patients", synthetic, pairs_of_patients),
        ("real_of_different_patients", real, pairs_of_patients),
    ):
        generator = np.random.default_rng([seed, 3])
        found[name] = mean_similarity(frames, choose(frames, most, generator), generator, classes)
    return found
