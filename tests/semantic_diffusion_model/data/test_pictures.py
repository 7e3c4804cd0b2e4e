"""Pictures of samples: grey values, overlays in colours that tell apart, the contact sheet."""

import itertools

import numpy as np
import pytest

from config import Settings
from guided_diffusion.data import pictures
from guided_diffusion.data.description import palette_of

# Colours as people without red, green or blue cones see them (Viénot 1999; the third from Brettel 1997, one plane),
# on linear RGB.
DEFICIENCIES = {
    "protan": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
    "deutan": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
}


def seen(colour: np.ndarray, kind: str) -> np.ndarray:
    linear = (colour / 255.0) ** 2.2
    return 255 * np.clip(np.array(DEFICIENCIES[kind]) @ linear, 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_chambers_differ_for_colour_blind_readers(kind):
    chambers = [pictures.PALETTE[value].astype(float) for value in (1, 3, 4)]
    for one, other in itertools.combinations(chambers, 2):
        assert np.abs(seen(one, kind) - seen(other, kind)).max() > 60


def test_the_range_of_the_network_becomes_grey_levels():
    x = np.float32([-2, -1, 0, 1, 2]).reshape(1, 1, 5).repeat(3, 0)
    assert pictures.to_uint8(x)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    levels = np.arange(256, dtype=np.float32)
    back = pictures.to_uint8((levels / 127.5 - 1).reshape(1, 1, 256).repeat(3, 0))
    assert back[0, :, 1].tolist() == list(range(256))
    assert pictures.to_uint8(np.zeros((2, 3, 4, 5), np.float32)).shape == (2, 4, 5, 3)


def test_grey_is_the_mean_of_the_channels():
    assert pictures.to_grey(np.uint8([[[10, 11, 12], [255, 255, 254]]])).tolist() == [[11, 255]]


def test_visible_labels_span_the_range_in_order():
    labels = np.arange(5, dtype=np.uint8).reshape(1, 5)
    assert pictures.visible(labels, 5).tolist() == [[0, 63, 127, 191, 255]]
    assert pictures.visible(np.zeros((1, 1), np.uint8), 1).tolist() == [[0]]


def test_overlay_and_outlines_mark_chambers_and_leave_the_rest():
    labels = np.zeros((9, 9), np.uint8)
    labels[:, 4:] = 2
    labels[2:7, 2:7] = 1
    grey = np.full((9, 9), 100, np.uint8)
    over, lines = pictures.overlay(grey, labels), pictures.outlines(grey, labels)
    inside = labels == 1
    assert (over[inside] == (0.6 * 100 + 0.4 * pictures.PALETTE[1]).astype(np.uint8)).all()
    for picture in (over, lines):
        assert (picture[~inside] == 100).all()
    edge = inside.copy()
    edge[3:6, 3:6] = False
    assert (lines[edge] == pictures.PALETTE[1]).all() and (lines[3:6, 3:6] == 100).all()
    # Of other data sets class 2 is a structure like any other, not what lies around the heart.
    over = pictures.overlay(grey, labels, palette_of(Settings(dataset_mode="folder")))
    assert (over[labels == 2] != 100).any() and (over[labels == 0] == 100).all()


def test_a_panel_that_is_absent_is_black():
    stack = pictures.stack([None, np.full((2, 3), 7, np.uint8)])
    assert stack.shape == (4, 3, 3) and (stack[:2] == 0).all() and (stack[2:] == 7).all()


def test_the_contact_sheet_holds_each_column_and_its_captions():
    columns = [np.full((4 * 32, 32, 3), 10 + i, np.uint8) for i in range(10)]
    sheet = pictures.contact_sheet(columns, ("label", "synthetic", "overlay", "real"))
    height, width = 4 * 96, 96  # enlarged three times, in two rows of five
    assert sheet.shape == (2 * height + 4, 84 + 5 * (width + 4), 3)
    for i in range(10):
        assert (sheet[:, 84:] == 10 + i).all(-1).sum() == height * width
    for row, panel in itertools.product(range(2), range(4)):
        top = row * (height + 4) + panel * width
        assert sheet[top : top + width, :84].min() < 60, "a caption stands here"
