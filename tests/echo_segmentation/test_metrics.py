"""Dice and distances against closed forms, brute force, and the definitions for absent structures."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.distance import cdist

from metrics import (
    dice_scores,
    evaluate_case,
    evaluated_structures,
    label_names,
    structure_masks,
    structures_of,
    surface_distances,
    ultrasound_cone,
)


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def disc(radius: float, size: int = 201) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size // 2
    return np.hypot(rows, columns) <= radius


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return dice_scores(*(torch.from_numpy(m)[None, None] for m in (first, second))).item()


@pytest.mark.parametrize("shift", [0, 1, 5, 20])
def test_dice_of_shifted_squares(shift):
    assert dice(square(10, 10), square(10, 10 + shift)) == pytest.approx((20 - shift) / 20)


def test_dice_of_concentric_discs():
    inner, outer = 40, 60
    expected = 2 * inner**2 / (inner**2 + outer**2)
    assert dice(disc(inner), disc(outer)) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.154, 0.308), (2.0, 0.5)])
@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (3, 0)])
def test_distances_of_shifted_squares_follow_the_axis_spacing(spacing, rows, columns):
    found = surface_distances(square(10, 10), square(10 + rows, 10 + columns), spacing)
    assert found["hd"] == pytest.approx(rows * spacing[0] + columns * spacing[1], rel=1e-6)


def test_distances_of_concentric_discs_are_the_difference_of_radii():
    found = surface_distances(disc(40), disc(60), (0.5, 0.5))
    for name in ("hd", "hd95", "msd"):
        assert found[name] == pytest.approx(10, abs=0.5), name


def test_equal_masks_have_no_distance():
    assert surface_distances(disc(30), disc(30), (0.3, 0.7)) == {"hd95": 0, "hd": 0, "msd": 0}


@pytest.mark.parametrize("seed", range(3))
def test_distances_against_brute_force(seed):
    rng, spacing = np.random.default_rng(seed), np.array([0.3, 0.7])
    masks = [gaussian_filter(rng.normal(size=(48, 40)), 4) > 0.02 for _ in range(2)]
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * spacing for mask in masks]
    distances = cdist(*edges)
    there, back = distances.min(1), distances.min(0)
    found = surface_distances(*masks, spacing)
    assert found["hd"] == pytest.approx(max(there.max(), back.max()), rel=1e-5)
    assert found["hd95"] == pytest.approx(max(np.quantile(there, 0.95), np.quantile(back, 0.95)), rel=1e-5)
    assert found["msd"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_edges_on_the_border_of_the_image_count(seed):
    """Masks that reach the border, against brute force: a pixel there is an edge, as what lies beyond is not known."""
    rng, spacing = np.random.default_rng(seed), np.array([0.5, 0.2])
    masks = [gaussian_filter(rng.normal(size=(30, 50)), 4) > 0 for _ in range(2)]
    for mask in masks:
        mask[:20, :20] = mask[-8:, 20:40] = True
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * spacing for mask in masks]
    distances = cdist(*edges)
    found = surface_distances(*masks, spacing)
    assert found["hd"] == pytest.approx(max(distances.min(1).max(), distances.min(0).max()), rel=1e-5)
    assert found["msd"] == pytest.approx(np.concatenate([distances.min(1), distances.min(0)]).mean(), rel=1e-5)


def test_dice_within_the_cone_forgives_what_lies_outside():
    """A whole annotation against one that is cut at the cone: 1 within it, less without. Black spots are inside."""
    image = np.zeros((64, 64), np.uint8)
    image[:, 16:] = 90
    image[30:34, 40:44] = 0
    cone = ultrasound_cone(image)
    assert cone[:, 16:].all() and not cone[:, :16].any()
    whole = np.zeros((64, 64), np.uint8)
    whole[10:50, 6:36] = 1
    cut = np.where(cone, whole, 0).astype(np.uint8)
    found = evaluate_case(cut, whole, evaluated_structures(4), (1, 1), cone)
    assert found["lv_endo_dice_cone"] == 1
    assert found["lv_endo_dice"] == pytest.approx(2 * 20 / (20 + 30))
    assert np.isnan(found["la_dice_cone"])


def test_the_myocardium_is_evaluated_by_itself_but_not_part_of_the_published_structures():
    labels = np.zeros((32, 32), np.uint8)
    labels[4:20, 4:20], labels[8:16, 8:16] = 2, 1
    shifted = np.roll(labels, 4, axis=1)
    found = evaluate_case(labels, shifted, evaluated_structures(4), (1, 1), np.ones((32, 32), bool))
    myocardium = [mask == 2 for mask in (labels, shifted)]
    expected = 2 * (myocardium[0] & myocardium[1]).sum() / sum(mask.sum() for mask in myocardium)
    assert found["lv_myo_dice"] == pytest.approx(expected)
    assert set(evaluated_structures(4)) - set(structures_of(4)) == {"lv_myo"}
    assert "lv_myo" not in evaluated_structures(2)


def test_the_epicardium_encloses_cavity_and_myocardium():
    labels = torch.tensor([[0, 1, 2, 3]])[None]
    masks = structure_masks(labels, structures_of(4))[0, :, 0]
    assert masks.tolist() == [
        [False, True, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]


def test_structures_follow_the_number_of_classes():
    assert list(structures_of(2)) == ["lv_endo"]
    assert list(structures_of(3)) == ["lv_endo", "lv_epi"]
    assert list(structures_of(5)) == ["lv_endo", "lv_epi", "la", "class_4"]
    assert label_names(5)[3:] == ["left_atrium", "class_4"]


def test_absent_in_both_is_not_evaluated_and_absent_in_one_is_zero():
    reference = np.zeros((32, 32), np.uint8)
    reference[8:16, 8:16] = 1
    predicted = np.zeros_like(reference)
    everywhere = np.ones((32, 32), bool)
    found = evaluate_case(predicted, reference, structures_of(4), (1, 1), everywhere)
    assert found["lv_endo_dice"] == found["lv_epi_dice"] == 0
    assert np.isnan([found["lv_endo_hd"], found["lv_endo_hd95"], found["lv_endo_msd"]]).all()
    assert np.isnan([found["la_dice"], found["la_hd"]]).all()
    assert evaluate_case(reference, predicted, structures_of(4), (1, 1), everywhere)["lv_endo_dice"] == 0
