"""What the augmentation drew, recovered from the images that it returns, against the published ranges."""

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from transforms import augment, training_transform

SIZE, DRAWS = 256, 400
CENTRE = (SIZE - 1) / 2
# (x, y) from the centre, as fractions of the size: they stay in the image under every published map.
LANDMARKS = np.array([(-0.15, -0.12), (0.17, -0.08), (-0.06, 0.16), (0.12, 0.14)])
RADIUS = 8
GREY = 180


def landmark_picture() -> tuple[np.ndarray, np.ndarray]:
    """White discs on black, which no gamma changes, and their label map 1 .. 4."""
    y, x = np.mgrid[:SIZE, :SIZE] - CENTRE
    label = np.zeros((SIZE, SIZE), np.uint8)
    for value, (centre_x, centre_y) in enumerate(LANDMARKS * SIZE, start=1):
        label[np.hypot(x - centre_x, y - centre_y) < RADIUS] = value
    return 255 * (label > 0).astype(np.uint8), label


def centroids(label: np.ndarray) -> np.ndarray:
    """(x, y) from the centre of the image of each landmark, (4, 2); all of them must be there."""
    assert set(range(1, len(LANDMARKS) + 1)) <= set(np.unique(label))
    return np.array([np.argwhere(label == value).mean(0)[::-1] - CENTRE for value in range(1, len(LANDMARKS) + 1)])


def fit(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Least-squares affine map of the landmarks: flip, rotation, the two scales (singular values), shift."""
    solved = np.linalg.lstsq(np.column_stack([before, np.ones(len(before))]), after, rcond=None)[0]
    linear, shift = solved[:2].T, solved[2]
    flip = np.linalg.det(linear) < 0
    turned = linear @ np.diag([-1, 1]) if flip else linear
    larger, smaller = np.linalg.svd(turned, compute_uv=False)
    return {
        "flip": float(flip),
        "rotation": np.degrees(np.arctan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])),
        "scale": (larger + smaller) / 2,
        "aspect": larger / smaller,
        "shift_x": shift[0] / SIZE,
        "shift_y": shift[1] / SIZE,
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """Parameters of many draws, each (DRAWS,)."""
    transform, (image, label) = training_transform(), landmark_picture()
    flat, found = np.full_like(image, GREY), []
    for index in range(DRAWS):
        moved_image, moved = augment(transform, image, label, (0, index))
        values = fit(centroids(label), centroids(moved))
        image_centre = np.average(np.argwhere(moved_image), axis=0, weights=moved_image[moved_image > 0])
        values["apart_y"], values["apart_x"] = image_centre - np.argwhere(moved).mean(0)
        grey = augment(transform, flat, label, (0, index))[0]
        values["gamma"] = np.log(grey[SIZE // 2, SIZE // 2] / 255) / np.log(GREY / 255)
        found.append(values)
    return {name: np.array([values[name] for values in found]) for name in found[0]}


@pytest.mark.parametrize(
    ("name", "low", "high", "error"),
    [
        ("gamma", 0.5, 3, 0.04),
        ("rotation", -10, 10, 0.4),
        ("scale", 0.8, 1.2, 0.01),
        ("shift_x", -0.2, 0.2, 0.005),
        ("shift_y", -0.2, 0.2, 0.005),
    ],
)
def test_every_image_is_changed_uniformly_within_the_published_range(drawn, name, low, high, error):
    values, margin = drawn[name], 0.03 * (high - low)
    assert low - error < values.min() < low + margin
    assert high - margin < values.max() < high + error
    assert kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


def test_one_scale_for_both_directions_and_each_by_itself(drawn):
    assert drawn["aspect"].max() < 1.015
    names = ("gamma", "rotation", "scale", "shift_x", "shift_y", "flip")
    correlation = np.corrcoef([drawn[name] for name in names]) - np.eye(len(names))
    assert np.abs(correlation).max() < 4 / np.sqrt(DRAWS)


def test_half_of_the_images_are_flipped(drawn):
    assert binomtest(int(drawn["flip"].sum()), DRAWS, 0.5).pvalue > 1e-3


def test_image_and_label_map_lie_on_each_other(drawn):
    """Centres of mass in pixels, over all draws: of one image they differ by what its pixels can resolve."""
    for name in ("apart_y", "apart_x"):
        assert abs(drawn[name].mean()) < 0.05
        assert np.abs(drawn[name]).max() < 2
