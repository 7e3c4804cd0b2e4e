"""Real CAMUS frames against the golden vectors and against each other (skipped where the data is absent)."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from camus import VIEW_NAMES
from deformation import deform, draw_deformation, pieces, sampling_map, warp
from medical_images import read_medical_image
from names import parse_stem
from view_folders import read_image, read_metadata


def call(run, source, out, *flags):
    outcome = run("extract_camus_data", "--camus_data_folder", source, "--save_folder_path", out, *flags)
    assert outcome.code == 0, outcome.err
    return out


@pytest.fixture
def from_mhd(run, camus, tmp_path) -> Path:
    """The five patients of the MHD release: all of them validation, so the other subgroups are empty."""
    return call(run, camus / "mhd", tmp_path / "mhd", "--skip_incomplete", "True")


def by_frame(folder: Path, kind: str) -> dict[tuple[str, str], np.ndarray]:
    """(patient, view) -> pixels: the split of a patient differs between the releases."""
    found = {}
    for path in (folder / "all_views" / kind).rglob("*.png"):
        stem = parse_stem(path.stem)
        found[stem.patient, stem.view] = read_image(path)
    return found


def test_golden_frames_and_sector_labels(run, from_mhd, reference, tmp_path):
    flags = ("--data_folder", from_mhd / "all_views", "--save_folder", tmp_path, "--add_augmentation", "False")
    assert run("augment_camus_labels", *flags).code == 0
    folders = {"image": "images", "label": "annotations", "sector_label": "sector_annotations"}
    golden = np.load(reference / "data_preparation.npz")
    assert len(golden.files) == 12
    for name in golden.files:
        stem, kind = name.split("/")
        made = read_image(tmp_path / "all_views_sector" / folders[kind] / "validation" / f"{stem}.png")
        assert made.dtype == golden[name].dtype and np.array_equal(made, golden[name]), name


def test_mhd_metadata(from_mhd):
    row = read_metadata(from_mhd / "2CH_ED")["patient0001_2CH_ED_validation"]
    expected = {
        "source": "training/patient0001/patient0001_2CH_ED.mhd",
        "native_height": "778",
        "native_width": "549",
        "spacing_depth_mm": "0.154",
        "spacing_lateral_mm": "0.308",
        "image_quality": "Good",
        "ef": "63.2",
        "edv_ml": "94.0",
        "esv_ml": "34.6",
    }
    assert {key: row[key] for key in expected} == expected


def compare(first: Path, second: Path, least_correlation: float) -> int:
    images, labels = ([by_frame(folder, kind) for folder in (first, second)] for kind in ("images", "annotations"))
    common = sorted(set(images[0]) & set(images[1]))
    for frame in common:
        correlation = np.corrcoef(images[0][frame].ravel(), images[1][frame].ravel())[0, 1]
        assert correlation > least_correlation, (frame, correlation)
        assert np.mean(labels[0][frame] == labels[1][frame]) > 0.98, frame
    return len(common)


def test_native_nifti_agrees_with_mhd(run, camus, from_mhd, tmp_path):
    native = call(run, camus / "native_4CH", tmp_path / "native", "--view_names", "4CH_ED", "4CH_ES")
    assert compare(native, from_mhd, 0.99) == 10
    outcome = run(
        *("extract_camus_data", "--camus_data_folder", camus / "native_4CH", "--save_folder_path", tmp_path / "all")
    )
    assert outcome.code == 2 and "has 120 problems" in outcome.err, "2CH of 30 patients, ED and ES, image and label"


def test_packed_nifti_agrees_with_mhd(run, camus, from_mhd, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["unpack.py", str(tmp_path / "packed"), "--patients", "5"])
    runpy.run_path(str(camus / "unpack.py"), run_name="__main__")
    packed = call(run, tmp_path / "packed", tmp_path / "out")
    assert compare(packed, from_mhd, 0.97) == 20
    assert {path.name for path in (packed / "2CH_ED/images/testing").iterdir()} == {
        f"patient{number:04d}_2CH_ED_testing.png" for number in (27, 47, 51, 52, 187)
    }


def test_area_labels_stay_on_the_native_ones(run, camus, tmp_path):
    """The centre of a structure, in new pixels, against the native label's: no shift on average, along either axis.
    The published nearest rule shifts it by a fifth of a pixel at 256 x 256."""
    offsets, areas = {"area": [], "nearest": []}, []
    for rule, found in offsets.items():
        flags = ("--view_names", "4CH_ED", "4CH_ES", "--image_interpolation", rule)
        views = call(run, camus / "native_4CH", tmp_path / rule, *flags) / "all_views"
        for stem, row in read_metadata(views).items():
            source = camus / "native_4CH" / row["source"].replace(".nii.gz", "_gt.nii.gz")
            native, small = (
                read_medical_image(source).pixels,
                read_image(views / f"annotations/{row['split']}/{stem}.png"),
            )
            for value in (1, 2, 3):
                pixels = [np.argwhere(label == value) + 0.5 for label in (small, native)]
                found.append(pixels[0].mean(axis=0) - pixels[1].mean(axis=0) * 256 / native.shape)
                areas.append(len(pixels[0]) / len(pixels[1]) * native.size / small.size if rule == "area" else 1)
    assert len(offsets["area"]) == 180 and np.abs(np.mean(offsets["area"], axis=0)).max() < 0.02
    assert np.mean(offsets["nearest"], axis=0).min() > 0.15
    assert abs(np.mean(areas) - 1) < 0.002


@pytest.fixture
def deformed(from_mhd) -> list[tuple]:
    """(label, cone, repeat, name) of three deformations of each real frame."""
    images, labels = (by_frame(from_mhd, kind) for kind in ("images", "annotations"))
    return [
        (label, images[frame] != 0, repeat, f"{'_'.join(frame)}_validation")
        for frame, label in labels.items()
        for repeat in range(3)
    ]


def test_deformations_of_real_label_maps(deformed):
    """Structures stay whole, before and after the cut at the cone; few draws are rejected."""
    rejected = []
    for label, cone, repeat, stem in deformed:
        made, count = deform(label, cone, stem, repeat, seed=0)
        for shown in (np.ones_like(cone), cone):
            before, after = pieces(np.where(shown, label, 0)), pieces(np.where(shown, made, 0))
            assert set(after) == set(before) and all(after[value] <= before[value] for value in before)
        rejected.append(count)
    assert len(rejected) == 3 * 5 * len(VIEW_NAMES) and np.mean(rejected) < 0.3


def floor_length(written: np.ndarray, cone: np.ndarray, source_row: np.ndarray) -> int:
    """Pixels of `written` within the cone that end a structure just where the frame's image ended."""
    height = len(written)
    beyond = (source_row[1:] > height - 0.5) & (source_row[:-1] <= height - 0.5) & cone[1:] & cone[:-1]
    return int(np.sum(beyond & (written[:-1] > 0) & (written[1:] == 0)))


def test_real_atria_have_no_false_floor(deformed):
    """With zeros beyond the image, one deformed map in five has a straight wall across the cone. A few pixels are what
    a structure that closes there leaves."""
    floors = {"ours": [], "zeros": []}
    for number, (label, cone, _, _) in enumerate(deformed):
        drawn = draw_deformation(np.random.default_rng(number))
        columns, rows = sampling_map(drawn, label.shape)
        zeros = cv2.remap(label, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
        for kind, written in (("ours", warp(label, cone, drawn)), ("zeros", zeros)):
            floors[kind].append(floor_length(written, cone, rows))
    assert np.mean(np.array(floors["zeros"]) > 8) > 0.15
    assert max(floors["ours"]) <= 8 and np.sum(floors["ours"]) < 0.2 * np.sum(floors["zeros"])
