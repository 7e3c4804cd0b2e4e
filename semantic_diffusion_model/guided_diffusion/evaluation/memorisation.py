"""Are patients copied? Nearest training frames of synthetic images, against those of real frames never trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from guided_diffusion.evaluation.fingerprints import WAYS
from guided_diffusion.evaluation.image_sets import Frame
from guided_diffusion.evaluation.largest import limit

FALSE_ALARM = 0.005
"""Chance of calling any image of an honest set a copy; of those that are called so, the share that is none at most."""
CONSPICUOUS = 5
"""As many times the share expected by chance that is nearer than the closest held-out frame is told of."""
ENOUGH_HELD_OUT = 10
SHOWN_PAIRS = 8
MIRRORED = 2
"""How often each training frame is compared: as it is, and mirrored."""
MOST_ALIKE = 1 - 1e-6


@dataclass(frozen=True)
class Judgement:
    """Of N synthetic and H held-out images, each way of looking (columns): correlation with the nearest training frame,
    and the threshold beyond which it is a copy."""

    synthetic: np.ndarray
    held_out: np.ndarray
    thresholds: np.ndarray
    copies: np.ndarray
    held_out_copies: np.ndarray

    @property
    def closest_held_out(self) -> np.ndarray:
        """Of each way, the correlation of the closest held-out frame that is no copy itself; if all are, of these."""
        own = ~self.held_out_copies
        return self.held_out[own if own.any() else slice(None)].max(0)

    @property
    def closer(self) -> np.ndarray:
        """Bool [N]: closer than the closest held-out frame, in either way."""
        return (self.synthetic > self.closest_held_out).any(1)


def judge(synthetic: np.ndarray, held_out: np.ndarray, training: int) -> Judgement:
    """Correlations with the nearest of `training` frames, [N, ways] and [H, ways], 0 to 1 -> who is a copy.

    How close frames of unseen patients come has the law of `largest`, fitted in Fisher's z = artanh(r) to all but the
    closest, so that a few that are copies themselves do not count. The threshold is where none of N such frames would
    lie, in either way, but by a chance of FALSE_ALARM; or, where k images lie beyond it, none of N / k such frames: so
    many may be called where many are (Benjamini & Hochberg 1995, with powers of two as k).
    """
    ways = np.arctanh(held_out.clip(0, MOST_ALIKE)).T

    def threshold(images: np.ndarray) -> np.ndarray:
        most = limits = None
        for called in 2 ** np.arange(len(images).bit_length()):
            draws = len(images) / called
            limits = np.tanh([limit(z, MIRRORED * training, draws, FALSE_ALARM / len(WAYS)) for z in ways])
            if most is None or (images > limits).any(1).sum() >= called:
                most = limits
        return most

    limits = threshold(synthetic)
    copies, held_out_copies = (synthetic > limits).any(1), (held_out > threshold(held_out)).any(1)
    return Judgement(synthetic, held_out, limits, copies, held_out_copies)


def strongest(nearest: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Of [N, ways, 3], the row [N, 3] of the way that stands out most against its threshold."""
    way = (np.arctanh(nearest[..., 0].clip(0, MOST_ALIKE)) / np.arctanh(thresholds)).argmax(1)
    return nearest[np.arange(len(nearest)), way]


def report(
    nearest: np.ndarray,
    nearest_held_out: np.ndarray,
    frames: Sequence[Frame],
    training: Sequence[Frame],
    held_out: Sequence[Frame],
) -> tuple[dict, Judgement]:
    """The entry `memorisation` of evaluation.json but for features, and the judgement it rests on."""
    found = judge(nearest[..., 0], nearest_held_out[..., 0], len(training))
    best = strongest(nearest, found.thresholds)
    order = np.argsort(-best[:, 0])
    names = [_pair(frames[i], best[i], training) for i in order]
    doubles = strongest(nearest_held_out, found.thresholds)
    return {
        "copies": int(found.copies.sum()),
        "images": len(frames),
        "share_of_copies": float(found.copies.mean()),
        "false_alarm": FALSE_ALARM,
        "held_out_images": len(held_out),
        "held_out_are_training": bool(held_out) and held_out[0] is training[0],
        "closer_than_closest_held_out": float(found.closer.mean()),
        "ways": {
            way: {
                "threshold": float(found.thresholds[w]),
                "closest_held_out": float(found.closest_held_out[w]),
                "median_held_out": float(np.median(found.held_out[:, w])),
                "median_synthetic": float(np.median(found.synthetic[:, w])),
                "closest_synthetic": float(found.synthetic[:, w].max()),
            }
            for w, way in enumerate(WAYS)
        },
        "named": [name for name, i in zip(names, order, strict=True) if found.copies[i]],
        "closest": names[:SHOWN_PAIRS],
        "doubles_among_real": [_pair(held_out[i], doubles[i], training) for i in np.flatnonzero(found.held_out_copies)],
    }, found


def _pair(frame: Frame, nearest: np.ndarray, training: Sequence[Frame]) -> dict:
    correlation, place, flipped = nearest
    other = training[int(place)]
    return {
        "image": frame.stem,
        "training_frame": other.stem,
        "correlation": float(correlation),
        "flipped": bool(flipped),
        "own_label": frame.source == other.stem,
    }


def sentence(entry: dict) -> str:
    """What `report` found, in plain words."""
    count, images = entry["copies"], entry["images"]
    whom = "training frames of other patients" if entry["held_out_are_training"] else "real frames never trained on"
    few = entry["held_out_images"] < ENOUGH_HELD_OUT
    rough = f" These are {entry['held_out_images']} frames alone: a rough judgement." if few else ""
    if not count:
        return (
            f"None of the {images} synthetic images can be told to be a copy: none comes closer to a training frame "
            f"than {whom} may by chance.{rough}{crowd(entry)}"
        )
    doubles = len(entry["doubles_among_real"])
    nearer = all(way["threshold"] > way["closest_held_out"] for way in entry["ways"].values())
    measure = f"than any of {whom} does" if nearer else f"than {whom} do by chance"
    but = f" (but for {doubles} of these that are copies themselves)" if doubles and nearer else ""
    return (
        f"{count} of the {images} synthetic images ({entry['share_of_copies']:.1%}) are copies of training frames: "
        f"they match one closer {measure}{but}.{rough} Do not publish them, and look at the training.{crowd(entry)}"
    )


def crowd(entry: dict) -> str:
    """What is to be told where conspicuously many images are nearer than any held-out frame: whoever of them is a copy,
    the training frames are known too well. By chance the largest of H + 1 correlations is any of them alike."""
    share, frames = entry["closer_than_closest_held_out"], entry["held_out_images"]
    expected = len(entry["ways"]) / (frames + 1)
    if frames < ENOUGH_HELD_OUT or share <= CONSPICUOUS * expected:
        return ""
    return (
        f" {share:.1%} of them lie nearer to a training frame than any of those {frames} does, where "
        f"{expected:.1%} would be expected: the network knows its training frames too well, look at the closest pairs."
    )


def nearest_in_features(
    synthetic: np.ndarray, held_out: np.ndarray, training: np.ndarray, barred: np.ndarray | None = None
) -> dict:
    """Euclidean distance to the nearest training frame, of features [N, D], [H, D] and [T, D].

    `barred` [H, T] bool: training frames that do not count for a held-out one.
    """
    known = torch.from_numpy(training)
    parts = [torch.cdist(part, known).amin(1) for part in torch.from_numpy(synthetic).split(1024)]
    distances = torch.cdist(torch.from_numpy(held_out), known)
    if barred is not None:
        distances = distances.masked_fill(torch.from_numpy(barred), float("inf"))
    made, real = torch.cat(parts).numpy(), distances.amin(1).numpy()
    return {
        "median_synthetic": float(np.median(made)),
        "median_held_out": float(np.median(real)),
        "closest_synthetic": float(made.min()),
        "closest_held_out": float(real.min()),
        "closer_than_closest_held_out": float((made < real.min()).mean()),
    }
