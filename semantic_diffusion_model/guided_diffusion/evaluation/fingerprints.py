"""What is a frame's own: its fine pattern, without brightness, contrast and slow haze; as it lies, and heart upright.

Two fingerprints of one speckle pattern correlate by about 1, also after a change of gain or some blur; those of two
patients by what all apical views have in common.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from guided_diffusion.evaluation.image_sets import CLASSES

SIZE = 64
FINE, COARSE = 0.7, 2.5  # standard deviations of the band pass, in pixels of SIZE
LEAST_DEVIATION = 1.0  # grey levels: a flatter neighbourhood is not blown up to a pattern
HEART = (CLASSES.index("lv_cavity"), CLASSES.index("lv_myocardium"))
UPRIGHT_ACROSS, UPRIGHT_ALONG, UPRIGHT_ROW = 9.0, 13.0, 28.0
"""Of the left ventricle turned upright: standard deviations across and along its axis, and the row of its centre."""
WAYS = ("in place", "aligned by the label")


def fingerprints(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[B, H, W] uint8 twice -> [B, ways, SIZE * SIZE] float32, each of unit length (0 where there is no pattern)."""
    found = []
    for image, label in zip(images, labels, strict=True):
        small = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        small_label = cv2.resize(label, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST_EXACT)
        turned = upright(small, small_label)
        pair = [pattern(small, small_label > 0), pattern(*turned) if turned else np.zeros((SIZE, SIZE), np.float32)]
        found.append(np.reshape(pair, (len(WAYS), -1)))
    return np.stack(found).astype(np.float32)


def pattern(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Band-passed grey levels [H, W] within `inside`, divided by their local deviation, of unit length."""
    mask = inside.astype(np.float32)

    def local_mean(values: np.ndarray, spread: float) -> np.ndarray:
        blurred = [cv2.GaussianBlur(one, (0, 0), spread) for one in (values * mask, mask)]
        return blurred[0] / np.maximum(blurred[1], 1e-3)

    grey = image.astype(np.float32)
    band = (local_mean(grey, FINE) - local_mean(grey, COARSE)) * mask
    deviation = np.sqrt(local_mean(band**2, 1.5 * COARSE))
    band = band / np.maximum(deviation, LEAST_DEVIATION) * mask
    return band / max(float(np.linalg.norm(band)), 1e-6)


def upright(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Image and cone turned, moved and scaled so that the left ventricle has the same axes in each; None without one.

    Its centre and principal axes are the moments of cavity and myocardium: what an affine map does to image and label
    together is undone, but for the small rotation that a shear adds.
    """
    rows, columns = np.nonzero(np.isin(label, HEART))
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
    cone = cv2.warpAffine(label, affine, (SIZE, SIZE), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return turned, cone > 0


class Nearest:
    """The training frames' fingerprints [T, ways, D]; finds the nearest one of others, flipped or not."""

    def __init__(self, fingerprints: np.ndarray, patients: Sequence[str], device: torch.device):
        self.device = device
        self.known = torch.from_numpy(fingerprints).to(device)
        self.patients = np.asarray(patients)

    def __call__(self, queries: np.ndarray, other_than: Sequence[str] | None = None) -> np.ndarray:
        """[B, ways, D] -> [B, ways, 3]: correlation with the nearest frame, its number, and 1 if flipped.

        `other_than`: of each query the patient whose frames do not count.
        """
        asked = torch.from_numpy(queries).to(self.device)
        mirrored = asked.unflatten(-1, (SIZE, SIZE)).flip(-1).flatten(-2)
        barred = None
        if other_than is not None:
            barred = torch.from_numpy(np.asarray(other_than)[:, None] == self.patients[None]).to(self.device)
        found = []
        for way in range(len(WAYS)):
            best = []
            for one in (asked, mirrored):
                alike = one[:, way] @ self.known[:, way].T
                best.append((alike if barred is None else alike.masked_fill(barred, -1.0)).max(1))
            flipped = best[1].values > best[0].values
            values = torch.where(flipped, best[1].values, best[0].values)
            places = torch.where(flipped, best[1].indices, best[0].indices)
            found.append(torch.stack([values.double(), places.double(), flipped.double()], -1))
        return torch.stack(found, 1).cpu().numpy()
