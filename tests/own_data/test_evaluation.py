"""Made-up fetal heads, which have no sector, through image_evaluate.py."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up_sets import speckle, write_heads

import image_evaluate
from evaluation_settings import EvaluationSettings
from guided_diffusion.evaluation import figures
from guided_diffusion.runs import launch

LEVELS = np.array([40, 190, 80, 15])


@pytest.fixture
def sets(run, tmp_path) -> tuple[Path, Path]:
    """The heads as a real_dir, and a results_dir of fresh speckle on their deformed labels, one training frame among
    them."""
    heads = write_heads(tmp_path / "heads", patients=6, size=48).parent
    where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", heads / "dataset.json")
    views = tmp_path / "views"
    assert run("extract_dataset", *where, "--save_folder_path", views, "--save_img_size", 48).code == 0
    for name, flags in (("sector", ("--add_augmentation", "False")), ("augmented", ("--n_repeat", 2))):
        given = ("--data_folder", views, "--save_folder", tmp_path / name, *flags)
        assert run("augment_camus_labels", *given).code == 0
    real, augmented = tmp_path / "sector/all_views_sector", tmp_path / "augmented/all_views_augmented"
    made = tmp_path / "results"
    shutil.copytree(augmented / "sector_annotations" / "training", made / "labels")
    (made / "samples").mkdir()
    generator = np.random.default_rng(5)
    labels = sorted((made / "labels").iterdir())
    for path in labels:
        pixels = speckle(LEVELS[cv2.imread(str(path), cv2.IMREAD_UNCHANGED)], generator)
        cv2.imwrite(str(made / "samples" / path.name), pixels)
    shutil.copy(real / "images/training/HC_0044 (left).png", made / "samples" / labels[0].name)
    for name in ("metadata.csv", "dataset.json"):
        shutil.copy(augmented / name, made / name)
    return real, made


def test_heads_are_evaluated_by_their_own_classes(sets, tmp_path, monkeypatch):
    real, made = sets
    (tmp_path / "seen").mkdir()
    for path in (made / "labels").iterdir():
        shutil.copy(path, tmp_path / "seen" / path.name)  # without a sector, what is drawn for are plain labels
    draw, by_class = figures.draw, ("grey_levels", "distributions")  # the others take time and know no classes
    monkeypatch.setattr(figures, "draw", lambda *given: {name: draw(*given)[name] for name in by_class})
    words = ["--real_dir", real, "--synthetic_dir", made, "--output_dir", tmp_path / "out", "--bootstrap", 100]
    words += ["--ssim_pairs", 10, "--predictions", tmp_path / "seen", "--device", "cpu"]
    assert launch.run(image_evaluate.main, EvaluationSettings, args=[*map(str, words)]) == 0

    entry = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with open(real / "metadata.csv") as file:
        patients = {row["patient"] for row in csv.DictReader(file)}
    assert entry["images"]["real_patients"] == len(patients) == 6
    assert entry["images"]["synthetic_patients"] == 4 and entry["images"]["synthetic"] == 16
    classes = ["background", "skull", "brain", "cavum"]
    assert list(entry["grey_levels"]) == list(entry["speckle"]) == list(entry["autocorrelation"]) == classes
    reported = ["head", "skull", "cavum"]
    assert list(entry["contrast"]) == [f"{name} against background" for name in reported]
    assert entry["contrast"]["skull against background"]["cnr"]["real"] < -1  # bone is brighter
    assert entry["contrast"]["cavum against background"]["cnr"]["real"] > 0  # fluid is darker
    agreement = entry["label_agreement"]["synthetic"]
    assert list(agreement) == ["frames", *reported] and all(agreement[name]["dice"] == 1 for name in reported)
    assert entry["memorisation"]["closest"][0]["training_frame"] == "HC_0044 (left)"
    assert entry["memorisation"]["closest"][0]["correlation"] > 0.99
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "cavum septi pellucidi" in page and "lv_" not in page and "LV " not in page and "ventricle" not in page
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == set(by_class)
