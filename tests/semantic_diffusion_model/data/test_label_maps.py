"""Class values, edges, checks."""

import numpy as np
import pytest

from command import UserError
from guided_diffusion.data.label_maps import check_classes, instance_edges, remap


def test_class_values_of_each_data_set():
    raw = np.array([[0, 1, 150, 255]], dtype=np.uint8)
    assert remap(raw, "camus").tolist() == [[0, 1, 150, 255]]
    assert remap(raw, "ade20k").tolist() == [[150, 0, 149, 254]]
    assert remap(raw, "coco").tolist() == [[0, 1, 150, 182]]


def test_edges_are_pixels_with_a_neighbour_of_another_instance():
    generator = np.random.default_rng(0)
    instances = generator.integers(0, 3, (2, 6, 7))
    expected = np.zeros(instances.shape, dtype=bool)
    for n, y, x in np.ndindex(instances.shape):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            inside = 0 <= y + dy < 6 and 0 <= x + dx < 7
            expected[n, y, x] |= inside and instances[n, y + dy, x + dx] != instances[n, y, x]
    assert np.array_equal(instance_edges(instances), expected)
    assert not instance_edges(np.full((4, 4), 9)).any()


def test_values_that_are_no_class():
    labels = np.array([[0, 4, 5, 200]], dtype=np.uint8)
    check_classes(labels, 201, "a.png")
    with pytest.raises(UserError, match=r"a.png has the values 5, 200; classes are 0 to 4"):
        check_classes(labels, 5, "a.png")
