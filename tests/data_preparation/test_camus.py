"""Names, label schemes, releases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import camus
from camus import camus_stem as Stem
from command import UserError
from dataset_description import camus as camus_description
from names import SPLITS, parse_stem


@given(
    st.integers(0, 9999),
    st.sampled_from(camus.VIEW_NAMES),
    st.sampled_from(SPLITS),
    st.none() | st.integers(0, 300),
    st.integers(0, 50),
)
def test_names_survive_being_written_and_parsed(number, view, split, repeat, round_):
    stem = Stem(f"patient{number:04d}", view, split, repeat, round_)
    assert parse_stem(str(stem)) == stem
    assert parse_stem(stem.source) == Stem(stem.patient, view, split)
    assert stem.is_real == (str(stem) == stem.source)


@pytest.mark.parametrize(
    "name",
    [
        "patient0001_2CH_ED",
        "patient001_2CH_ED_training",
        "patient0001_3CH_ED_training",
        "patient0001_2CH_ED_train",
        "patient0001_2CH_ED_training_01",
        "patient0001_2CH_ED_training_1_r0",
        "patient0001_2CH_ED_training_",
        "xpatient0001_2CH_ED_training",
        "patient0001_2CH_ED_training_1 ",
    ],
)
def test_what_is_no_name_is_an_error(name):
    with pytest.raises(UserError, match="is not <patient>_<view>_<split>"):
        parse_stem(name)


def test_round_suffix_without_repeat():
    assert parse_stem("patient0007_4CH_ES_validation_r2") == Stem("patient0007", "4CH_ES", "validation", None, 2)


def test_sector_labels_and_back():
    label = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.uint8)
    cone = np.array([[True] * 4, [False] * 4])
    sector = camus_description().to_conditions(label, cone)
    assert sector.tolist() == [[2, 1, 3, 4], [0, 0, 0, 0]] and sector.dtype == np.uint8
    assert camus_description().from_conditions(sector).tolist() == [[0, 1, 2, 3], [0, 0, 0, 0]]


def test_mhd_splits_and_people_of_the_same_name(tmp_path):
    for folder in ("training/patient0001", "training/patient0050", "training/patient0051", "testing/patient0001"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "training/notes.txt").write_text("no patient")
    release = camus.find_release(tmp_path)
    assert release.people == [
        ("validation", "patient0001"),
        ("validation", "patient0050"),
        ("training", "patient0051"),
        ("testing", "patient0001"),
    ]
    assert release.frame("testing", "patient0001", "2CH_ED").image.parent == tmp_path / "testing/patient0001"
    assert release.problems == []


def test_nifti_splits_come_from_the_lists(tmp_path):
    (tmp_path / "database_nifti").mkdir()
    people = {"training": ["patient0003", "patient0001"], "validation": ["patient0002"], "testing": ["patient0004"]}
    camus.write_subgroups(tmp_path, people)
    release = camus.find_release(tmp_path)
    assert sorted(release.people) == sorted((split, name) for split, names in people.items() for name in names)
    image = release.frame("training", "patient0003", "4CH_ES").image
    assert image == tmp_path / "database_nifti/patient0003/patient0003_4CH_ES.nii.gz"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "ED: 1\nES: 18\nImageQuality: Good\nLVedv: 94.0\nLVesv: 34.6\nLVef: 63.2\n",
            {"image_quality": "Good", "ef": "63.2", "edv_ml": "94.0", "esv_ml": "34.6"},
        ),
        ("ImageQuality: Poor\nEF: 51\n", {"image_quality": "Poor", "ef": "51", "edv_ml": "", "esv_ml": ""}),
        (None, {"image_quality": "", "ef": "", "edv_ml": "", "esv_ml": ""}),
    ],
)
def test_info_of_both_releases(tmp_path, text, expected):
    path = tmp_path / "Info_2CH.cfg"
    if text is not None:
        path.write_text(text)
    assert camus.read_info(path) == (expected, [])
