"""The mapping between native and network pixels, against the rules by which the network's pixels were made."""

import cv2
import numpy as np
import pytest

from geometry import nearest_indices, network_coordinates, to_native

SIZES = [(389, 128), (549, 128), (1168, 256), (224, 224), (100, 256), (778, 64)]


def ramp_seen_by_the_network(native: int, network: int, alignment: str, extracted: int) -> np.ndarray:
    """A row that holds its own coordinates, brought to the network's size as images are: where its pixels look."""
    row = np.arange(native, dtype=np.float32)[None]
    if alignment == "nearest":
        row = row[:, [int(k * ((native - 1) / (extracted - 1))) for k in range(extracted)]]
    else:
        row = cv2.resize(row, (extracted, 1), interpolation=cv2.INTER_AREA)
    return cv2.resize(row, (network, 1), interpolation=cv2.INTER_AREA)[0]


@pytest.mark.parametrize("alignment", ["area", "nearest"])
@pytest.mark.parametrize(("native", "network"), [pair for pair in SIZES if pair[0] > pair[1]])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_ramp_comes_back_to_its_place(native, network, alignment, steps):
    """Inside the first and last network pixel, a linear ramp is restored, to less than half a native pixel; on average
    over the axis to a twentieth.
    """
    seen = ramp_seen_by_the_network(native, network, alignment, network * steps)
    at = network_coordinates(native, network, alignment, network * steps)
    inside = (at >= 0) & (at <= network - 1)
    error = np.interp(at, np.arange(network), seen)[inside] - np.arange(native)[inside]
    assert inside.mean() > 0.97
    assert abs(error).max() < 0.5
    assert abs(error.mean()) < 0.05


def test_the_published_rule():
    """In float64 an exact integer may come out one lower; the first and last pixel are copied as they are."""
    assert nearest_indices(9, 5).tolist() == [0, 2, 4, 6, 8]
    assert nearest_indices(389, 256)[[0, 255]].tolist() == [0, 388]


@pytest.mark.parametrize(("native", "network"), SIZES)
def test_equal_sizes_are_equal_pixels_and_centres_agree(native, network):
    at = network_coordinates(native, network, "area")
    assert at[0] + at[-1] == pytest.approx(network - 1)  # symmetric about the middle
    assert np.diff(at) == pytest.approx(network / native)
    assert network_coordinates(native, native, "nearest") == pytest.approx(np.arange(native), abs=1)


def test_a_border_between_network_pixels_is_found_where_the_probabilities_cross():
    """Probabilities of a soft border at x = 10.3 of 32 network pixels: at 10.3 + 0.5 of 32 of the native width."""
    x = np.arange(32)
    first = np.clip(0.5 + (10.3 - x) / 4, 0, 1)
    probabilities = np.broadcast_to(np.stack([first, 1 - first])[:, None], (2, 32, 32))
    labels = to_native(probabilities, (64, 640))
    assert labels.shape == (64, 640) and labels.dtype == np.uint8
    assert (labels == 0).sum(1).tolist() == [216] * 64  # 10.8 * 20 pixels to the border
    coarse = cv2.resize((first < 0.5).astype(np.uint8)[None], (640, 1), interpolation=cv2.INTER_NEAREST)
    assert (coarse == 0).sum() == 220  # the label map enlarged: 4 pixels off


@pytest.mark.parametrize(("alignment", "tolerance"), [("area", 0.03), ("nearest", 0.15)])
def test_discs_keep_their_centre_and_area(alignment, tolerance):
    """Shrunk to 96 x 96 and brought back; centres (in native pixels, five of which make one of the network's), and
    areas, on the mean over discs.
    """
    rng, shape = np.random.default_rng(0), (500, 389)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    offsets, areas = [], []
    for _ in range(20):
        centre = np.array([250, 195]) + rng.uniform(-40, 40, 2)
        disc = (np.hypot(rows - centre[0], columns - centre[1]) < rng.uniform(90, 130)).astype(np.float32)
        if alignment == "area":
            small = cv2.resize(disc, (96, 96), interpolation=cv2.INTER_AREA)
        else:
            small = disc[np.ix_(*(nearest_indices(n, 96) for n in shape))]
        labels = to_native(np.stack([1 - small, small]), shape, alignment)
        offsets.append(np.argwhere(labels).mean(0) - np.argwhere(disc).mean(0))
        areas.append(labels.sum() / disc.sum())
    assert np.mean(offsets, axis=0) == pytest.approx([0, 0], abs=tolerance)
    assert np.mean(areas) == pytest.approx(1, abs=0.006)  # chords between samples cut a little off a disc
