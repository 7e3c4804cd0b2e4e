"""What a description makes of classes, patients and fingerprints; CAMUS keeps its names."""

import json
import shutil

import numpy as np
import pytest

from command import UserError
from dataset_description import camus, parse_description
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.fingerprints import fingerprints
from guided_diffusion.evaluation.frame_numbers import frame_numbers, quantities
from guided_diffusion.evaluation.image_sets import described, find_real, find_synthetic

KIDNEY = {
    "name": "Kidneys",
    "names": {"table": {"path": "metadata.csv", "columns": {"file": "stem", "patient": "patient"}}, "mark": "__"},
    "classes": [{"name": "background"}, {"name": "capsule"}, {"name": "cortex"}],
    "reported": {"kidney": {"classes": [1, 2], "title": "whole kidney"}, "cortex": [2]},
}
SECTOR = {"outside": 1, "inside": 3}


def classes_of(**changes) -> Classes:
    return Classes(parse_description(json.dumps(KIDNEY | changes).encode(), "dataset.json"))


def test_camus_keeps_its_names():
    found = Classes(camus())
    assert found.names == ("outside", "lv_cavity", "cone_background", "lv_myocardium", "left_atrium")
    assert (found.outside, found.background, found.inside, found.drawn) == (0, 2, (1, 2, 3, 4), (1, 3, 4))
    assert found.structures == {"lv_endo": (1,), "lv_epi": (1, 2), "la": (3,)}
    assert found.contrasts == {"lv_cavity against lv_myocardium": ((1,), (3,))} and found.upright == (1, 3)


def test_without_a_sector_images_are_whole_and_each_structure_stands_against_the_background():
    found = classes_of()
    assert found.names == ("background", "capsule", "cortex") and found.outside is None
    assert found.inside == (0, 1, 2) and found.drawn == found.upright == (1, 2)
    assert found.shown(np.zeros((2, 2), np.uint8)).all()
    assert found.contrasts == {"kidney against background": ((1, 2), (0,)), "cortex against background": ((2,), (0,))}


def test_a_sector_may_have_any_values():
    found = classes_of(sector=SECTOR)
    assert found.names == ("capsule", "outside", "cortex", "cone_background")
    assert found.inside == (0, 2, 3) and found.drawn == (0, 2) and found.background == 3
    assert found.shown(np.array([0, 1, 2, 3])).tolist() == [True, False, True, True]
    assert found.contrasts["kidney against cone_background"] == ((0, 2), (3,)) and found.structures["kidney"] == (1, 2)


@pytest.mark.parametrize("sector", [None, SECTOR])
def test_numbers_are_of_the_classes_that_are_told(sector):
    classes = classes_of(sector=sector)
    plain = np.zeros((40, 40), np.uint8)
    plain[10:20], plain[20:30] = 1, 2
    cone = np.ones((40, 40), bool)
    cone[:, 35:] = False
    labels = classes.description.to_conditions(plain, cone)
    image = np.random.default_rng(0).integers(100, 120, (40, 40)) + np.array([0, 50, 90])[plain]
    row = frame_numbers(image[None].astype(np.uint8), labels[None], classes, 60.0)[0]
    found = {(one.section, one.row, one.key): value for one, value in zip(quantities(classes), row, strict=True)}
    background = classes.names[classes.background]
    kept = cone if sector else np.ones_like(cone)
    assert found["grey_levels", background, "mean"] == pytest.approx(image[kept & (plain == 0)].mean())
    sides = [image[kept & (plain == value)] for value in (2, 0)]
    contrast = (sides[1].mean() - sides[0].mean()) / np.sqrt(sides[0].var() + sides[1].var())
    assert found["contrast", f"cortex against {background}", "cnr"] == pytest.approx(contrast)
    assert found["contrast", f"cortex against {background}", "gcnr"] == pytest.approx(1)
    speckle = {row for section, row, _ in found if section == "speckle"}
    assert speckle == {"capsule", "cortex", background}


def test_what_lies_outside_changes_no_fingerprint_but_a_whole_image_has_no_outside():
    labels = np.full((1, 64, 64), 3, np.uint8)
    labels[:, 20:44, 28:36], labels[:, :, :8] = 2, 1
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (1, 64, 64)).astype(np.uint8)
    other = np.where(labels == 1, 255 - image, image).astype(np.uint8)
    with_sector = classes_of(sector=SECTOR)
    before, after = (fingerprints(one, labels, with_sector) for one in (image, other))
    assert np.linalg.norm(before, axis=-1) == pytest.approx(np.ones((1, 2)), abs=1e-3)
    assert np.allclose(before, after, atol=1e-6)
    whole = np.where(labels == 2, 2, 0).astype(np.uint8)
    before, after = (fingerprints(one, whole, classes_of()) for one in (image, other))
    assert (before[:, 0] * after[:, 0]).sum() < 0.95


@pytest.fixture
def kidneys(real_dir, synthetic_dir, tmp_path):
    """The small echoes as a set of its own, whose names do not tell patients: folders of real and of synthetic ones."""
    real, made = tmp_path / "real", tmp_path / "made"
    (made / "samples").mkdir(parents=True)
    (made / "labels").mkdir()
    stems = [f"scan_{number}" for number in range(12)]
    for kind in ("images", "sector_annotations"):
        (real / kind / "training").mkdir(parents=True)
        for stem, path in zip(stems, sorted((real_dir / kind / "training").iterdir()), strict=False):
            shutil.copy(path, real / kind / "training" / f"{stem}.png")
    for kind in ("samples", "labels"):
        files = sorted((synthetic_dir / kind).iterdir())
        for stem, path in zip([*stems, "scan_99"], files, strict=False):
            shutil.copy(path, made / kind / f"{stem}__0.png")
            shutil.copy(path, made / kind / f"{stem}__0__r1.png")
    rows = [f"{stem},P{number // 3},training" for number, stem in enumerate(stems)]
    (real / "metadata.csv").write_text("\n".join(["stem,patient,split", *rows]) + "\n")
    (made / "metadata.csv").write_text("stem,patient,split\nscan_99__0,P1,training\n")
    for folder in (real, made):
        (folder / "dataset.json").write_text(json.dumps(KIDNEY))
    return real, made


def test_patients_are_those_of_metadata_csv(kidneys):
    real, made = kidneys
    description = described(str(real), [str(made)])
    frames = find_real(str(real), description, print)["training"]
    assert {frame.stem: frame.patient for frame in frames}["scan_11"] == "training/P3"
    found = {frame.stem: frame for frame in find_synthetic(str(made), description, frames)}
    repeated = found["scan_4__0__r1"]
    assert (repeated.label_map, repeated.source, repeated.patient) == ("scan_4__0", "scan_4", "training/P1")
    assert found["scan_99__0"].patient == "training/P1" and found["scan_99__0"].source == ""


def test_a_frame_whose_patient_nobody_tells_is_an_error(kidneys):
    real, made = kidneys
    path = real / "metadata.csv"
    path.write_text(path.read_text().replace("scan_7,", "scan_70,"))
    with pytest.raises(UserError, match="does not tell who all frames are of") as caught:
        find_real(str(real), described(str(real), [str(made)]), print)
    assert "scan_7 has no row" in str(caught.value)


@pytest.mark.parametrize("change", ["another class", "none"])
def test_a_set_of_another_description_is_refused_in_one_line(kidneys, tmp_path, evaluate, capsys, change):
    real, made = kidneys
    path = made / "dataset.json"
    if change == "none":
        path.unlink()
    else:
        path.write_text(path.read_text().replace("capsule", "calyx"))
    assert evaluate(real_dir=real, synthetic_dir=made, output_dir=tmp_path / "out") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {made} is not of the data set of real_dir {real}") and "classes" in told
    assert not (tmp_path / "out").exists()
