"""Nobody is in two splits, whoever draws them: extraction, preparation and training hold them against one another."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import runner
from command import run_command
from names import view_folder
from settings import TrainSettings


def sampled(augmented: Path, results: Path) -> Path:
    """What image_sample.py would leave of these label maps; the frames' own pixels are good enough."""
    for kind, source in (("samples", "images"), ("labels", "sector_annotations")):
        (results / kind).mkdir(parents=True)
        for path in (augmented / source).glob("*/*.png"):
            if path.parent.name != "testing":
                shutil.copy(path, results / kind)
    for name in ("metadata.csv", "dataset.json"):
        shutil.copy(augmented / name, results / name)
    stems = sorted((augmented / "sector_annotations").glob("*/*.png"))
    lines = [f"{path.stem},{path}" for path in stems if path.parent.name != "testing"]
    (results / "manifest.csv").write_text("\n".join(["stem,label_map", *lines]) + "\n")
    return results


@pytest.fixture
def drawn(run, describe, heads, tmp_path):
    """extract(seed) the heads, whose splits are drawn here, into a folder of that name; views of seed 0 sampled for."""
    describe(lambda content: content["names"].pop("table"))

    def extract(seed: int, *flags: object) -> Path:
        where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", heads / "dataset.json")
        views = tmp_path / f"views{seed}"
        shares = ("--share_testing", 0.2, "--share_validation", 0.2, "--seed", seed)
        assert run("extract_dataset", *where, "--save_folder_path", views, "--save_img_size", 32, *shares).code == 0
        return views

    made = tmp_path / "augmented"
    given = ("--data_folder", extract(0), "--save_folder", made, "--n_repeat", 1)
    assert run("augment_camus_labels", *given).code == 0
    return extract, sampled(made / "all_views_augmented", tmp_path / "results")


def patients_of(views: Path, split: str) -> set[str]:
    with open(views / "all_views" / "metadata.csv", newline="") as file:
        return {row["patient"] for row in csv.DictReader(file) if row["split"] == split}


def test_synthetic_frames_of_who_is_tested_now_are_refused(run, drawn, tmp_path):
    extract, results = drawn
    given = ("--sdm_results_folder", results, "--save_folder", tmp_path / "data", "--testing_data_folder")
    assert run("prepare_inference4segmentation", *given, tmp_path / "views0").code == 0
    tested = patients_of(tmp_path / "views0", "testing")
    others = next(views for seed in range(1, 20) if patients_of(views := extract(seed), "testing") != tested)
    refused = run("prepare_inference4segmentation", *given, others, "--overwrite", True)
    assert refused.code == 2 and "made for training, and its patient is in testing of" in refused.err
    assert "the files and the --seed of the synthetic ones" in refused.err


def test_a_patient_in_two_splits_is_not_trained_on(run, drawn, tmp_path, capfd):
    views = tmp_path / "views0" / "all_views"
    moved = next(path for path in sorted((views / "images/training").iterdir()))
    for kind in ("images", "annotations"):
        shutil.copy(views / kind / "training" / moved.name, views / kind / "testing" / moved.name)
    words = ["--data-dir", str(views), "--output-dir", str(tmp_path / "run"), "--img-size", "64", "--gpu", "cpu"]
    assert run_command(runner.main, TrainSettings, words) == 2
    said = capfd.readouterr().err
    assert "1 patients are in two splits" in said and moved.stem in said and not (tmp_path / "run").exists()


def test_what_name_and_table_say_may_not_differ(heads, describe, extract_heads):
    describe(lambda content: content["names"].update(pattern=r"(?P<patient>HC_\d+) \((?P<view>left|right)\)"))
    table = heads / "splits.csv"
    table.write_text(table.read_text().replace("set", "set", 1))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    columns = json.loads((heads / "dataset.json").read_text())["names"]["table"]["columns"]
    describe(lambda content: content["names"]["table"]["columns"].update(view="side"))
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "side"])
        writer.writeheader()
        sides = ["right" if "right" in row[columns["file"]] else "left" for row in rows]
        writer.writerows(row | {"side": side} for row, side in zip(rows, sides, strict=True))
    assert extract_heads().code == 0
    table.write_text(table.read_text().replace(",left", ",right", 1))
    refused = extract_heads("--overwrite", True)
    assert refused.code == 2 and "its view is left by its name, right by the table" in refused.err


def test_a_view_folder_is_called_alike_however_often_it_is_read():
    for view, phase in (("", "ED"), ("2CH", "ED"), ("2CH_ED", "ED"), ("a", ""), ("", "")):
        once = view_folder(view, phase)
        assert view_folder(once, phase) == once
    assert view_folder("", "ED") == "ED" and view_folder("CHED", "ED") == "CHED_ED"


def test_images_are_not_their_own_label_maps(run, stills, tmp_path):
    where = ("--images", stills / "frames", "--labels", stills / "frames", "--dataset", tmp_path / "dataset.json")
    content = json.loads((stills / "dataset.json").read_text())
    del content["names"]["label_ending"]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    refused = run("extract_dataset", *where, "--save_folder_path", tmp_path / "out")
    assert refused.code == 2 and "names.label_ending has to tell them apart" in refused.err


def test_a_class_too_thin_for_the_size_is_warned_of(run, heads, tmp_path):
    import cv2
    import numpy as np

    first = sorted((heads / "maps").glob("*.png"))[0]
    label = cv2.imread(str(first), cv2.IMREAD_UNCHANGED)
    label[label == 3] = 1
    label[3, 3] = 3
    cv2.imwrite(str(first), np.ascontiguousarray(label))
    where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", heads / "dataset.json")
    done = run("extract_dataset", *where, "--save_folder_path", tmp_path / "v", "--save_img_size", 16)
    assert done.code == 0 and "vanishes from" in done.err and "at 16 x 16 pixels" in done.err


def test_a_mean_of_nothing_is_refused(describe, extract_heads):
    describe(lambda content: content.update(reported={"skull": {"classes": [1], "in_mean": False}}))
    refused = extract_heads()
    assert refused.code == 2 and "none is in_mean" in refused.err


@pytest.mark.parametrize(("splits", "silent"), [
    (("test", "val", "", "", "train"), 2),
    (("test", "", "", "", ""), 3),  # the fourth is drawn for validation
    (("test", "val", "train", "train", "train"), 0),
    (("", "", "", "", ""), 0),
])  # fmt: skip
def test_patients_without_a_split_go_to_training_and_are_counted(heads, extract_heads, splits, silent):
    pictures = sorted(path.name for path in (heads / "pictures").iterdir())  # two of each patient
    rows = [f"{name},{splits[index // 2]}" for index, name in enumerate(pictures)]
    (heads / "splits.csv").write_text("\n".join(["picture,set", *rows]))
    outcome = extract_heads("--share_testing", 0.2, "--share_validation", 0.2)
    assert outcome.code == 0 and "(3 training, 1 validation, 1 testing)" in outcome.out
    told = f"warning: {silent} patients have no split, where others have one, and are in training"
    assert outcome.err.count("no split") == outcome.err.count(told) == (silent > 0)


def test_blanks_around_a_name_in_a_table_make_no_other_patient(heads, describe, extract_heads, tmp_path):
    """Of both sides of each head, one row has a blank behind the patient's name, as spreadsheets leave it."""

    def by_table(content):
        content["names"]["pattern"] = None
        content["names"]["table"]["columns"] = {"file": "picture", "patient": "who"}

    describe(by_table)
    names = sorted(path.name for path in (heads / "pictures").iterdir())
    rows = [f"{name},{name[:7]}{' ' * ('right' in name)}" for name in names]
    (heads / "splits.csv").write_text("\n".join(["picture,who", *rows]))
    outcome = extract_heads("--share_testing", 0.2, "--share_validation", 0.2)
    assert outcome.code == 0 and "10 frames of 5 patients (3 training, 1 validation, 1 testing)" in outcome.out
    splits = [patients_of(tmp_path / "views", split) for split in ("training", "validation", "testing")]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 5
