"""How well a predicted label map agrees with the reference: Dice, and by MONAI Hausdorff and surface distances.

A structure that is absent in both maps is not evaluated: all its values are NaN, and it counts as `absent`. Absent in
one of them, its Dice is 0; its distances are NaN, as there is no surface to measure to, and it counts as `missed`.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.utils import get_edge_surface_distance
from scipy.ndimage import binary_fill_holes

from dataset_description import Description, camus
from rows import DISTANCES, WITHIN_CONE


def structures_of(num_classes: int, description: Description | None = None) -> dict[str, tuple[int, ...]]:
    """Structures that count for the mean Dice, as sets of labels: those of the description (CAMUS': of the published
    report), as far as the classes go, and each further class by itself."""
    described = (description or camus()).with_classes(num_classes)
    return {name: described.plain_labels(name) for name, one in described.structures.items() if one.in_mean}


def evaluated_structures(num_classes: int, description: Description | None = None) -> dict[str, tuple[int, ...]]:
    """`structures_of`, and those beside them, as CAMUS' myocardium: the epicardium's Dice says little of it."""
    described = (description or camus()).with_classes(num_classes)
    others = {name: described.plain_labels(name) for name in described.structures}
    return structures_of(num_classes, description) | others


def label_names(num_classes: int, description: Description | None = None) -> list[str]:
    """Name of each class value."""
    return list((description or camus()).with_classes(num_classes).class_names)


def structure_masks(labels: torch.Tensor, structures: dict[str, tuple[int, ...]]) -> torch.Tensor:
    """Label maps (batch, height, width) -> boolean masks (batch, structures, height, width)."""
    masks = [sum(labels == value for value in classes) for classes in structures.values()]  # classes exclude each other
    return torch.stack(masks, dim=1).bool()


def dice_scores(predicted: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Dice, 2 |A and B| / (|A| + |B|), of masks (batch, structures, height, width) -> (batch, structures).

    NaN where a structure is absent in both. Nothing here waits for the device.
    """
    predicted, reference = (masks.flatten(2).float() for masks in (predicted, reference))
    return 2 * (predicted * reference).sum(-1) / (predicted.sum(-1) + reference.sum(-1))


def ultrasound_cone(image: np.ndarray) -> np.ndarray:
    """Where a grey image (height, width) uint8 is not 0, and the black spots inside: the field of view."""
    return binary_fill_holes(image > 0)


def surface_distances(predicted: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """`hd95`, `hd` (maximum) and `msd` (symmetric mean) between the edges of two masks (height, width).

    `spacing` is the distance between pixel centres along rows and columns; the results have its unit. NaN if a mask is
    empty. hd95 is the greater of the two directed 95 % quantiles, msd the mean over the edge pixels of both.
    """
    if not predicted.any() or not reference.any():
        return dict.fromkeys(DISTANCES, float("nan"))
    pair = [torch.from_numpy(mask) for mask in (predicted, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of MONAI's functions, on each other
        _, (there, back), _ = get_edge_surface_distance(*pair, spacing=list(spacing), symmetric=True)
    return {
        "hd95": max(there.quantile(0.95).item(), back.quantile(0.95).item()),
        "hd": max(there.max().item(), back.max().item()),
        "msd": torch.cat([there, back]).mean().item(),
    }


def evaluate_case(
    predicted: np.ndarray,
    reference: np.ndarray,
    structures: dict[str, tuple[int, ...]],
    spacing: Sequence[float],
    cone: np.ndarray | None,
) -> dict[str, float]:
    """All metrics of one case, `<structure>_<metric>`, of label maps (height, width); see `surface_distances`.

    `dice_cone` is the Dice of what lies within `cone`, (height, width) bool: labels cut at the cone and whole ones are
    equal there. Without a cone there is none.
    """
    pair = [structure_masks(torch.tensor(labels)[None], structures) for labels in (predicted, reference)]
    within = None
    if cone is not None:
        within = dice_scores(*(masks & torch.from_numpy(cone) for masks in pair))[0].tolist()
    result = {}
    for s, (name, dice) in enumerate(zip(structures, dice_scores(*pair)[0].tolist(), strict=True)):
        distances = surface_distances(*(mask[0, s].numpy() for mask in pair), spacing)
        cut = {WITHIN_CONE: within[s]} if within else {}
        for metric, value in {"dice": dice, **distances, **cut}.items():
            result[f"{name}_{metric}"] = value
    return result
