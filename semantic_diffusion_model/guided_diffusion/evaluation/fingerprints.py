"""What is a frame's own: its fine pattern, without brightness, contrast and slow haze; as it lies, and upright.

Two fingerprints of one speckle pattern correlate by about 1, also after a change of gain or some blur; those of two
patients by what all images of a view have in common.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from guided_diffusion.evaluation.classes import Classes, Values

SIZE = 64
FINE, COARSE = 0.7, 2.5  # standard deviations of the band pass, in pixels of SIZE
CANDIDATES = 8
LEAST_LEFT = 0.05  # of a fingerprint, beside what a label explains of it
NOTHING = 1e-3  # length of a pattern that is rounding alone
LEAST_DEVIATION = 1.0  # grey levels: a flatter neighbourhood is not blown up to a pattern
UPRIGHT_ACROSS, UPRIGHT_ALONG, UPRIGHT_ROW = 9.0, 13.0, 28.0
"""Of what is turned upright: standard deviations across and along its axis, and the row of its centre."""
WAYS = ("in place", "aligned by the label")


def fingerprints(images: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """[B, H, W] uint8 twice -> [B, ways, SIZE * SIZE] float32, each of unit length (0 where there is no pattern)."""
    return np.stack([_both_ways(*pair, classes)[:, 0] for pair in zip(images, labels, strict=True)])


def with_layouts(images: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """[B, H, W] uint8 twice -> [B, ways, 1 + drawn classes, SIZE * SIZE] float32: the fingerprint less what the label
    explains of it, and orthonormal patterns that the borders of each class would make."""
    return np.stack([_both_ways(*pair, classes, layout=True) for pair in zip(images, labels, strict=True)])


def _both_ways(image: np.ndarray, label: np.ndarray, classes: Classes, layout: bool = False) -> np.ndarray:
    small = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    small_label = cv2.resize(label, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)
    found = np.zeros((len(WAYS), 1 + layout * len(classes.drawn), SIZE * SIZE), np.float32)
    there = small, small_label, classes.shown(small_label).astype(np.uint8)
    for way, view in enumerate((there, upright(*there, classes.upright))):
        if view is not None:
            turned, turned_label, inside = view
            seen = pattern(turned, inside)
            found[way] = explained(*seen, turned_label, inside, classes.drawn) if layout else seen[0]
    return found


def pattern(image: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Band-passed grey levels `inside` (1 or 0) divided by their local deviation, of unit length, and that deviation.

    [H, W] uint8 twice -> [H * W] float32 twice.
    """
    inside = inside.astype(np.float32)
    band = _band(image.astype(np.float32), inside)
    deviation = np.maximum(np.sqrt(_local_mean(band**2, inside, 1.5 * COARSE)), LEAST_DEVIATION)
    return _unit((band / deviation).ravel()), deviation.ravel()


def explained(
    fingerprint: np.ndarray, deviation: np.ndarray, label: np.ndarray, inside: np.ndarray, drawn: Values
) -> np.ndarray:
    """[1 + drawn classes, H * W]: as one row of `with_layouts`, of what `pattern` found."""
    inside = inside.astype(np.float32)
    rows: list[np.ndarray] = []
    for value in drawn:
        border = _band((label == value).astype(np.float32), inside).ravel() / deviation
        for row in rows:  # Gram and Schmidt; a class that is not there leaves 0
            border = border - (border @ row) * row
        rows.append(_unit(border))
    for row in rows:
        fingerprint = fingerprint - (fingerprint @ row) * row
    return np.stack([_unit(fingerprint), *rows])


def _band(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return (_local_mean(values, inside, FINE) - _local_mean(values, inside, COARSE)) * inside


def _local_mean(values: np.ndarray, inside: np.ndarray, spread: float) -> np.ndarray:
    """Gaussian mean of `values` over the pixels `inside` (1 or 0)."""
    total, weight = (cv2.GaussianBlur(one, (0, 0), spread) for one in (values * inside, inside))
    return total / np.maximum(weight, 1e-3)


def _unit(values: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(values))
    return values / length if length > NOTHING else np.zeros_like(values)


def upright(
    image: np.ndarray, label: np.ndarray, inside: np.ndarray, values: Values
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Image, label and what is `inside` turned, moved and scaled so that the classes `values` have the same axes in
    each; None without them.

    Their centre and principal axes are the moments of their pixels: what an affine map does to image and label
    together is undone, but for the small rotation that a shear adds.
    """
    rows, columns = np.nonzero(np.isin(label, values))
    if rows.size < 20:
        return None
    points = np.stack([columns, rows]).astype(float)
    lengths, axes = np.linalg.eigh(np.cov(points))
    if lengths[0] < 0.5:
        return None
    along = axes[:, 1] * (1 if axes[1, 1] > 0 else -1)
    across = np.array([along[1], -along[0]])
    spread = np.stack([across * np.sqrt(lengths[0]), along * np.sqrt(lengths[1])], 1)
    back = spread / np.array([UPRIGHT_ACROSS, UPRIGHT_ALONG])
    offset = points.mean(1) - back @ np.array([(SIZE - 1) / 2, UPRIGHT_ROW])
    affine = np.hstack([back, offset[:, None]])
    turned = cv2.warpAffine(image, affine, (SIZE, SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    exact = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return turned, *(cv2.warpAffine(one, affine, (SIZE, SIZE), flags=exact) for one in (label, inside))


class Nearest:
    """The training frames' fingerprints and layouts [T, ways, 1 + drawn classes, D]; finds the nearest one of others.

    Images drawn for one label share its borders without being copies. So what counts is the partial correlation of two
    fingerprints, given the borders that the training frame's label would make: 1 for a copy, whatever label lies beside
    it, and that of the speckle alone for an image that was drawn for this label.
    """

    def __init__(self, known: np.ndarray, patients: Sequence[str], device: torch.device):
        self.device = device
        self.known = torch.from_numpy(known).to(device)
        self.patients = np.asarray(patients)

    def __call__(self, queries: np.ndarray, other_than: Sequence[str] | None = None) -> np.ndarray:
        """Fingerprints [B, ways, D] -> [B, ways, 3]: correlation with the nearest frame, its number, 1 if flipped.

        `other_than`: of each query the patient whose frames do not count.
        """
        asked = torch.from_numpy(queries).to(self.device)
        mirrored = asked.unflatten(-1, (SIZE, SIZE)).flip(-1).flatten(-2)
        barred = torch.zeros((len(queries), len(self.patients)), dtype=torch.bool, device=self.device)
        if other_than is not None:
            barred |= torch.from_numpy(np.asarray(other_than)[:, None] == self.patients[None]).to(self.device)
        found = []
        for way in range(len(WAYS)):
            pair = [self._nearest(one[:, way], way, barred) for one in (asked, mirrored)]
            flipped = pair[1][0] > pair[0][0]
            values, places = (torch.where(flipped, other, own) for own, other in zip(*pair, strict=True))
            found.append(torch.stack([values.double(), places.double(), flipped.double()], -1))
        return torch.stack(found, 1).cpu().numpy()

    def _nearest(self, queries: torch.Tensor, way: int, barred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The highest partial correlation and whose it is, [B] each, among the CANDIDATES of highest covariance."""
        covariances = (queries @ self.known[:, way, 0].T).masked_fill(barred, -1.0)
        best, places = covariances.topk(min(CANDIDATES, len(self.patients)), 1)
        borders = torch.einsum("bcrd,bd->bcr", self.known[places, way, 1:], queries)
        left = 1 - borders.square().sum(-1)
        correlations, chosen = (best / left.clamp_min(LEAST_LEFT).sqrt()).max(1)
        return correlations, places.gather(1, chosen[:, None])[:, 0]
