"""The ultrasound cone: drawn sectors whose shape is known, and real frames."""

import cv2
import numpy as np
import pytest

from cone import doubtful, fitted_cone, plain_cone
from medical_images import read_frame

SIZE = 200


def sector(size: int = SIZE) -> np.ndarray:
    """Bool: within 0.95 of the height of a tip at the top, and within 38 degrees of straight down."""
    rows, columns = np.mgrid[:size, :size] / size
    return (np.hypot(rows, columns - 0.5) < 0.95) & (np.abs(np.arctan2(columns - 0.5, rows + 1e-9)) < np.radians(38))


def speckle(cone: np.ndarray) -> np.ndarray:
    """An image that is 0 outside of `cone` and nowhere within, with a dark lake in it."""
    rng = np.random.default_rng(0)
    image = np.where(cone, rng.gamma(2.0, 30.0, cone.shape).clip(1, 255), 0)
    rows, columns = np.indices(cone.shape)
    image[(np.hypot(rows - 110, columns - 100) < 25) & cone] = 3
    return image.astype(np.uint8)


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], cv2.IMREAD_GRAYSCALE)


def with_text(image: np.ndarray) -> np.ndarray:
    return cv2.putText(image.copy(), "3.5 MHz", (2, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 220, 1)


SPOILT = {
    "another level": lambda image: np.minimum(image, 245) + 1,
    "lossy": jpeg,
    "text": with_text,
    "all of it": lambda image: jpeg(with_text(np.minimum(image, 240) + 5)),
}


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard's index."""
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("kind", SPOILT)
def test_a_sector_is_found_however_its_outside_is_spoilt_and_the_plain_rule_is_told(kind):
    cone = sector()
    image = SPOILT[kind](speckle(cone))
    assert overlap(fitted_cone(image), cone) > 0.96
    assert doubtful(plain_cone(image)) is not None


def test_the_plain_rule_is_exact_where_the_outside_is_0():
    cone = sector()
    assert np.array_equal(plain_cone(speckle(cone)), cone) and doubtful(cone) is None
    assert overlap(fitted_cone(speckle(cone)), cone) > 0.97
    assert not fitted_cone(np.full((50, 50), 7, np.uint8)).any()


def test_real_frames_have_no_holes_and_are_found_however_they_are_spoilt(camus):
    for path in sorted((camus / "mhd/training").rglob("*_E[DS].mhd")):
        image = read_frame(path).frames[0]
        image = cv2.resize(image, (256, 256), interpolation=cv2.INTER_NEAREST)
        cone = plain_cone(image)
        assert doubtful(cone) is None, path
        for kind, spoil in SPOILT.items():
            assert overlap(fitted_cone(spoil(image)), cone) > 0.93, (path, kind)
