"""Label maps: the class values of each data set, edges between instances, checks."""

import numpy as np

from command import UserError


def remap(labels: np.ndarray, dataset_mode: str) -> np.ndarray:
    """The label values [H, W] uint8 of a file as classes 0 .. num_classes - 1 of `dataset_mode`.

    ade20k: 0 is "other" in the files and the last class (150) here, all others one lower. coco: 255 is "unlabelled",
    class 182. Elsewhere the values are the classes.
    """
    if dataset_mode == "ade20k":
        labels = labels - np.uint8(1)  # 0 wraps to 255
        return np.where(labels == 255, np.uint8(150), labels)
    if dataset_mode == "coco":
        return np.where(labels == 255, np.uint8(182), labels)
    return labels


def instance_edges(instances: np.ndarray) -> np.ndarray:
    """Bool [..., H, W]: pixels that have a 4-neighbour of another instance in `instances` (whole numbers)."""
    edges = np.zeros(instances.shape, dtype=bool)
    across = instances[..., :, 1:] != instances[..., :, :-1]
    down = instances[..., 1:, :] != instances[..., :-1, :]
    edges[..., :, 1:] |= across
    edges[..., :, :-1] |= across
    edges[..., 1:, :] |= down
    edges[..., :-1, :] |= down
    return edges


def check_classes(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raise UserError, which names the file `where`, if a value of `labels` is no class: not 0 .. num_classes - 1."""
    wrong = np.unique(labels[labels >= num_classes])
    if wrong.size:
        values = ", ".join(map(str, wrong[:10])) + (", …" if wrong.size > 10 else "")
        raise UserError(
            f"{where} has the value{'s' if wrong.size > 1 else ''} {values}; classes are 0 to {num_classes - 1}"
        )
