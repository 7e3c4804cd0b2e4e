"""make_phantom_camus.py: the release it writes, its splits, seeds and refusals."""

import numpy as np
import pytest

from make_phantom_camus import number_patients, split_patients
from medical_images import read_medical_image


@pytest.mark.parametrize(("n", "expected"), [(3, (1, 1, 1)), (10, (8, 1, 1)), (40, (32, 4, 4)), (500, (400, 50, 50))])
def test_split_sizes(n, expected):
    splits = split_patients(n, seed=0)
    assert tuple(splits.count(name) for name in ("training", "validation", "testing")) == expected


def test_mhd_numbers_tell_the_splits_apart():
    assert number_patients(["training", "testing", "validation", "training", "testing"], "mhd") == [51, 1, 1, 52, 2]


def test_both_releases_hold_the_same_frames_and_what_is_reported(releases):
    nifti = read_medical_image(next(releases["nifti"].rglob("patient0001_2CH_ED.nii.gz")))
    same = [
        path
        for path in releases["mhd"].rglob("*_2CH_ED.mhd")
        if np.array_equal(read_medical_image(path).frames, nifti.frames)
    ]
    assert len(same) == 1
    assert read_medical_image(same[0]).spacing_mm == pytest.approx(nifti.spacing_mm, abs=1e-5)
    assert nifti.pixels.shape[0] == 96 and nifti.spacing_mm[0] == pytest.approx(nifti.spacing_mm[1], rel=0.01)
    info = dict(line.split(": ") for line in (same[0].parent / "Info_2CH.cfg").read_text().splitlines())
    ejection = 100 * (1 - float(info["LVesv"]) / float(info["LVedv"]))
    assert float(info["LVef"]) == pytest.approx(ejection, abs=0.2)


def test_seed_alone_decides_whatever_the_workers(run, releases, tmp_path, tree):
    again = ("--n_patients", 10, "--size", 96, "--release", "nifti")
    assert run("make_phantom_camus", "--save_folder", tmp_path / "a", *again, "--num_workers", 2).code == 0
    assert tree(tmp_path / "a") == tree(releases["nifti"])
    assert run("make_phantom_camus", "--save_folder", tmp_path / "b", *again, "--seed", 1).code == 0
    assert tree(tmp_path / "b") != tree(releases["nifti"])


def test_phantoms_replace_phantoms_but_nothing_else(run, tmp_path, tree):
    flags = ("--save_folder", tmp_path, "--n_patients", 3, "--size", 32)
    assert run("make_phantom_camus", *flags).code == 0
    before = tree(tmp_path)
    refused = run("make_phantom_camus", *flags, "--seed", 1)
    assert refused.code == 2 and "already holds database_nifti, database_split" in refused.err
    assert tree(tmp_path) == before
    assert run("make_phantom_camus", *flags, "--seed", 1, "--overwrite", "True").code == 0
    after = tree(tmp_path)
    assert after != before
    (tmp_path / "database_nifti/PHANTOMS.txt").unlink()
    del after["database_nifti/PHANTOMS.txt"]
    outcome = run("make_phantom_camus", *flags, "--overwrite", "True")
    assert (
        outcome.code == 2
        and "holds database_nifti, which does not look made by this toolkit" in outcome.err
        and tree(tmp_path) == after
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--n_patients", 2), "--n_patients 2: from 3"),
        (("--size", 8), "--size 8: from 32"),
        (("--seed", -1), "--seed -1: input should be greater than or equal to 0"),
        (("--release", "dicom"), "dicom"),
        (("--release", "mhd", "--n_patients", 501), "an MHD release has room for 500"),
    ],
)
def test_impossible_settings(run, tmp_path, flags, message):
    outcome = run("make_phantom_camus", "--save_folder", tmp_path / "out", *flags)
    assert outcome.code == 2 and message in outcome.err and not (tmp_path / "out").exists()
