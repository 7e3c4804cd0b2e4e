"""Names and folders, agreement with labels, and diversity."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from command import UserError
from dataset_description import camus
from guided_diffusion.evaluation import agreement, diversity
from guided_diffusion.evaluation.classes import Classes
from guided_diffusion.evaluation.image_sets import Frame, find_real, find_synthetic, read_frame

CAMUS = Classes(camus())


def test_real_frames_know_their_split_and_patient(real_dir):
    found = find_real(str(real_dir), camus(), print)
    assert {split: len(frames) for split, frames in found.items()} == {"training": 40, "validation": 12, "testing": 12}
    assert found["training"][0].patient == "training/patient0001"


def test_synthetic_frames_know_their_label_map_and_patient_by_the_manifest(real_dir, synthetic_dir):
    real = [frame for frames in find_real(str(real_dir), camus(), print).values() for frame in frames]
    found = {frame.stem: frame for frame in find_synthetic(str(synthetic_dir), camus(), real)}
    assert len(found) == 100
    frame = found["patient0003_2CH_ED_training_1_r1"]
    assert frame.label_map == "patient0003_2CH_ED_training_1"
    assert frame.source == "patient0003_2CH_ED_training" and frame.patient == "training/patient0003"


def test_without_a_manifest_names_tell_it(real_dir, synthetic_dir, tmp_path):
    for kind in ("samples", "labels"):
        (tmp_path / kind).symlink_to(synthetic_dir / kind)
    real = find_real(str(real_dir), camus(), print)["training"]
    told, guessed = (find_synthetic(str(folder), camus(), real) for folder in (synthetic_dir, tmp_path))
    assert [(f.stem, f.label_map, f.patient, f.source) for f in guessed] == [
        (f.stem, f.label_map, f.patient, f.source) for f in told
    ]


def test_a_sampling_that_is_not_finished_is_refused(synthetic_dir, tmp_path):
    for path in synthetic_dir.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert find_synthetic(str(tmp_path), camus(), [])
    (tmp_path / "manifest.part0.csv").write_text("stem,label_map,index\n")
    with pytest.raises(UserError, match="the sampling is not finished; run image_sample.py again"):
        find_synthetic(str(tmp_path), camus(), [])


def test_patients_of_the_same_number_in_two_splits_are_two(real_dir):
    frames = [frame for part in find_real(str(real_dir), camus(), print).values() for frame in part]
    assert len({frame.patient for frame in frames}) == 64


def frame_of(folder, stem: str) -> Frame:
    return Frame(stem, str(folder / "samples" / f"{stem}.png"), str(folder / "labels" / f"{stem}.png"), "p", stem, "")


def test_dice_of_known_maps():
    reference = np.zeros((10, 10), np.uint8)
    reference[:5] = 1
    reference[5:8] = 2
    predicted = reference.copy()
    predicted[4] = 2
    endo, epi, atrium = agreement.dice(predicted, reference, CAMUS.structures.values())
    assert endo == pytest.approx(2 * 40 / 90) and epi == 1 and np.isnan(atrium)


@pytest.fixture
def predictions(synthetic_dir, tmp_path):
    """Perfect predictions of all synthetic images."""
    (tmp_path / "labels").mkdir()
    for path in (synthetic_dir / "labels").iterdir():
        cv2.imwrite(str(tmp_path / "labels" / path.name), camus().from_conditions(cv2.imread(str(path), 0)))
    return tmp_path


def test_perfect_predictions_have_a_dice_of_one(real_dir, synthetic_dir, predictions):
    frames = find_synthetic(str(synthetic_dir), camus(), find_real(str(real_dir), camus(), print)["training"])[:12]
    paths = agreement.find_predictions(str(predictions), frames, all_of_them=True)
    assert np.nanmin(agreement.dice_of(frames, paths, CAMUS)) == 1


def test_what_is_predicted_outside_of_the_cone_does_not_count(synthetic_dir, predictions):
    frame = frame_of(synthetic_dir, "patient0001_2CH_ED_training_0")
    label = read_frame(frame, CAMUS)[1]
    path = predictions / "labels" / f"{frame.stem}.png"
    cv2.imwrite(str(path), np.where(label == 0, 1, camus().from_conditions(label)).astype(np.uint8))
    assert agreement.dice_of([frame], [str(path)], CAMUS)[0, 0] == 1


@pytest.mark.parametrize("wrong", ["missing", "none", "size", "classes"])
def test_predictions_that_do_not_fit_are_told(synthetic_dir, predictions, wrong):
    frame = frame_of(synthetic_dir, "patient0001_2CH_ED_training_0")
    path = predictions / "labels" / f"{frame.stem}.png"
    if wrong in ("missing", "none"):
        path.unlink()
        kept = frame_of(synthetic_dir, "patient0002_2CH_ED_training_0")
        with pytest.raises(UserError, match=frame.stem if wrong == "missing" else "no picture has the name"):
            if wrong == "missing":
                agreement.find_predictions(str(predictions), [frame, kept], all_of_them=True)
            agreement.find_predictions(str(predictions), [frame], all_of_them=False)
        return
    cv2.imwrite(str(path), np.full((32, 32) if wrong == "size" else (64, 64), 4, np.uint8))
    with pytest.raises(UserError, match="32 x 32" if wrong == "size" else "has the value 4"):
        agreement.dice_of([frame], [str(path)], CAMUS)


def test_similarity_is_one_of_the_same_image_and_ignores_what_lies_outside_the_cone(synthetic_dir):
    image, label = read_frame(frame_of(synthetic_dir, "patient0001_2CH_ED_training_0"), CAMUS)
    assert diversity.similarity((image, label), (image, label), CAMUS) == pytest.approx(1)
    other = image[:, ::-1]
    assert diversity.similarity((image, label), (other, label), CAMUS) < 0.6


def test_deformed_label_maps_are_no_real_frames(real_dir, tmp_path):
    """<view>_augmented has the layout of <view>_sector, but its images are those of the undeformed labels."""
    real = Path(shutil.copytree(real_dir, tmp_path / "real"))
    for kind in ("images", "sector_annotations"):
        for number, path in enumerate(sorted((real / kind / "training").iterdir())[:3]):
            path.rename(path.with_name(f"patient0001_2CH_ED_training_{number}.png"))
    with pytest.raises(UserError, match=r"3 label maps are deformed \(as patient0001_2CH_ED_training_0\)"):
        find_real(str(real), camus(), print)


def test_pairs_are_of_one_map_or_of_two_patients(real_dir, synthetic_dir):
    frames = find_synthetic(str(synthetic_dir), camus(), find_real(str(real_dir), camus(), print)["training"])
    generator = np.random.default_rng(0)
    one = diversity.pairs_of_one_map(frames, 30, generator)
    assert len(one) == 30 and all(frames[a].label_map == frames[b].label_map and a != b for a, b in one)
    two = diversity.pairs_of_patients(frames, 30, generator)
    assert len(two) == 30 and all(frames[a].patient != frames[b].patient for a, b in two)


def test_a_set_of_one_image_repeated_is_not_diverse(synthetic_dir):
    frames = [frame_of(synthetic_dir, "patient0001_2CH_ED_training_0")] * 12
    frames = [Frame(str(i), f.image_path, f.label_path, str(i), str(i), "") for i, f in enumerate(frames)]
    found = diversity.report(frames, frames, 10, 0, CAMUS)
    assert found["synthetic_of_different_patients"]["mean"] == pytest.approx(1)
    assert found["synthetic_of_one_map"] == {"pairs": 0, "mean": None, "interval": None}
