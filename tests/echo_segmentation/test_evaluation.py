"""test_model.py: the checkpoint tells everything, summaries by hand, and runs compared in pairs."""

import csv
import hashlib
import json
import re
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

import evaluation
import summary
from cases import find_cases
from dataset import load_cases
from evaluation import without_nan
from figures import pick_cases
from metrics import surface_distances
from model import build_camus_unet
from settings import TestSettings
from summary import bootstrap_interval, console_line, describe, summarise, summarise_cases


def make_rows(dice, **known) -> list[dict]:
    rows = []
    for number, value in enumerate(dice):
        row = {
            "stem": f"s{number}",
            "patient": f"p{number}",
            "view": "",
            "phase": "",
            "image_quality": "",
            "unit": "px@128",
            "grid": "128x128",
            "diagonal": 181.0,
        }
        row |= {f"lv_endo_{m}": v for m, v in zip(("dice", "hd95", "hd", "msd"), (value, 2.0, 4.0, 1.0), strict=True)}
        rows.append(row | {name: values[number] for name, values in known.items()})
    return rows


def test_the_checkpoint_is_all_that_is_needed(judge, trained, hearts, tmp_path, capsys):
    """Normalisation, size and architecture come from the file: the same numbers as at the end of the training."""
    flags = ("--model-path", trained / "model.pth", "--output-dir", tmp_path, "--gpu", "cpu", "--batch-size", 3)
    assert judge("--data-dir", f"{hearts}/%s/", *flags) == 0
    said = capsys.readouterr().out
    assert f"from {trained / 'model.pth'}" in said
    assert "Test Dice: [Mean: " in said
    assert "[Lv Atrium std " in said
    assert (tmp_path / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()
    for file in (trained / "predictions").iterdir():
        assert (tmp_path / "predictions" / file.name).read_bytes() == file.read_bytes()


def test_summary_is_overall_and_per_group_in_mm(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert (summary["cases"], summary["unit"], summary["split"]) == (8, "mm@32", "testing")
    assert set(summary["view"]) == {"2CH", "4CH"}
    assert set(summary["phase"]) == {"ED", "ES"}
    assert set(summary["image_quality"]) == {"Good", "Poor"}
    dice = summary["overall"]["la"]["dice"]
    assert dice["mean_95"][0] <= dice["mean"] <= dice["mean_95"][1]
    assert summary["ejection_fraction"]["patients"] == 2
    assert summary["ejection_fraction"]["against_labels"]["ef"]["n"] == 2
    with open(trained / "ejection_fraction.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        edv, esv = float(row["edv_ml_reference"]), float(row["esv_ml_reference"])
        assert edv > esv > 0
        assert float(row["ef_reference"]) == pytest.approx(100 * (edv - esv) / edv)
        assert (row["ef_reported"], row["edv_ml_reported"]) == (str(55.0 + int(row["patient"][-1])), "")
    agreements = summary["ejection_fraction"]
    assert agreements["labels_against_reported"]["ef"]["n"] == agreements["against_reported"]["ef"]["n"] == 2
    assert agreements["against_reported"]["edv_ml"]["n"] == 0


def test_millimetres_are_pixels_times_their_spacing(judge, trained, hearts, tmp_path, capsys):
    """The hearts' frames are 400 x 300 pixels of 0.3 x 0.35 mm, brought to 64 x 64 as published and to 32 x 32 by area.
    Without metadata.csv: pixels, and it is said.
    """
    shutil.copytree(hearts, tmp_path / "data")
    (tmp_path / "data" / "metadata.csv").unlink()
    flags = ("--data-dir", tmp_path / "data", "--model-path", trained / "model.pth", "--gpu", "cpu")
    assert judge(*flags, "--output-dir", tmp_path / "o") == 0
    assert "distances in pixels of 32 x 32 images" in capsys.readouterr().out
    tables = []
    for folder in (trained, tmp_path / "o"):
        with open(folder / "metrics.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    cases = load_cases(find_cases(str(hearts), "testing"), 32, 4, 1)
    for index, (mm, px) in enumerate(zip(*tables, strict=True)):
        predicted = np.asarray(Image.open(trained / "predictions" / f"{mm['stem']}.png"))
        for row, unit, spacing in ((mm, "mm@32", (0.3 * 399 / 63 * 2, 0.35 * 299 / 63 * 2)), (px, "px@32", (1, 1))):
            expected = surface_distances(predicted == 3, cases[index][1] == 3, spacing)
            assert (row["unit"], row["grid"]) == (unit, "32x32")
            for name, value in expected.items():
                assert float(row[f"la_{name}"]) == pytest.approx(value)


def test_nothing_of_an_earlier_evaluation_is_left(judge, trained, make_folder, tmp_path):
    out = tmp_path / "o"
    shutil.copytree(trained, out, ignore=shutil.ignore_patterns("last.pth", "log.csv"))
    data = make_folder(tmp_path / "data", {"testing": 1})
    for file in (data / "images" / "testing").glob("*2CH*"):
        file.unlink()
        (data / "annotations" / "testing" / file.name).unlink()
    flags = ("--data-dir", data, "--model-path", trained / "model.pth", "--output-dir", out, "--gpu", "cpu")
    assert judge(*flags, "--test-viz-num", 0) == 0
    names = {file.name for file in (data / "images" / "testing").iterdir()}
    assert {file.name for file in (out / "predictions").iterdir()} == names and len(names) == 2
    assert {file.name for file in (out / "figures").iterdir()} == {"dice.png"}
    assert not (out / "ejection_fraction.csv").exists()


def test_a_kill_leaves_no_table_of_other_label_maps(judge, trained, hearts, tmp_path, capsys, monkeypatch):
    flags = ("--data-dir", hearts, "--output-dir", tmp_path / "o", "--gpu", "cpu", "--test-viz-num", 0)
    flags += ("--model-path", trained / "model.pth")
    assert judge(*flags) == 0
    first = {file.name for file in (tmp_path / "o").iterdir()}

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "draw", killed)
        assert judge(*flags, "--remove-stray-parts") == 130
    left = {file.name for file in (tmp_path / "o").iterdir()}
    assert left == {"predictions", "figures", "unfinished.txt", "settings.json"}
    assert json.loads((tmp_path / "o" / "settings.json").read_text())["remove_stray_parts"] is True  # its own
    assert judge(*flags) == 0
    assert {file.name for file in (tmp_path / "o").iterdir()} == first


def test_settings_are_recorded_with_the_checkpoint_they_were_used_on(judge, trained, hearts, tmp_path, capsys):
    """All of them; of label maps there is no checkpoint. A settings.json of something else is not replaced."""
    flags = ("--data-dir", hearts, "--test-viz-num", 0, "--image-quality", "Good", "--missed-distance", "diagonal")
    network = ("--model-path", trained / "model.pth", "--gpu", "cpu", "--batch-size", 3)
    assert judge(*flags, *network, "--output-dir", tmp_path / "o") == 0
    found = json.loads((tmp_path / "o" / "settings.json").read_text())
    assert set(found) == {field.name for field in fields(TestSettings)} | {"checkpoint_sha256"}
    assert found["checkpoint_sha256"] == hashlib.sha256((trained / "model.pth").read_bytes()).hexdigest()
    asked = {"data_dir": str(hearts), "model_path": str(trained / "model.pth"), "batch_size": 3, "gpu": "cpu"}
    asked |= {"image_quality": ["Good"], "missed_distance": "diagonal", "predictions": None, "img_size": None}
    assert {name: found[name] for name in asked} == asked
    assert judge(*flags, "--predictions", trained / "predictions", "--output-dir", tmp_path / "o") == 0
    found = json.loads((tmp_path / "o" / "settings.json").read_text())
    assert found["predictions"] == str(trained / "predictions") and "checkpoint_sha256" not in found
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("{}")
    assert judge(*flags, *network, "--output-dir", tmp_path / "other") == 2
    assert "settings.json, which is no result of ours" in capsys.readouterr().err
    assert (tmp_path / "other" / "settings.json").read_text() == "{}"


@pytest.mark.parametrize("output", ["mine", "mine/predictions/..", "mine/predictions"])
def test_the_label_maps_that_are_evaluated_stay(judge, trained, hearts, tmp_path, capsys, output):
    """Results go to --output-dir/predictions and others, where those of an earlier evaluation are deleted."""
    maps = tmp_path / "mine" / "predictions"
    shutil.copytree(trained / "predictions", maps)
    if output.endswith("predictions"):
        shutil.copytree(maps, maps / "figures")  # anybody's pictures
    before = {path: path.read_bytes() for path in maps.rglob("*.png")}
    flags = ("--data-dir", hearts, "--predictions", maps, "--output-dir", tmp_path / output)
    assert judge(*flags) == 2
    assert re.search("would be replaced by the results|is no result of ours", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in maps.rglob("*.png")} == before


def test_deformed_copies_have_no_ejection_fraction(judge, trained, make_folder, tmp_path):
    """Be there one of each frame: each was deformed by itself. Those of a frame beside it change nothing."""
    data = make_folder(tmp_path / "data", {"testing": 2})
    for file in data.glob("*/testing/patient0002*.png"):
        file.rename(file.with_name(f"{file.stem}_0.png"))
    table = data / "metadata.csv"
    table.write_text(re.sub(r"^(patient0002\w+_testing)", r"\1_0", table.read_text(), flags=re.MULTILINE))
    for kind in ("images", "annotations"):
        stem = "patient0001_4CH_ED_testing"
        shutil.copy(data / kind / "testing" / f"{stem}.png", data / kind / "testing" / f"{stem}_0.png")
    text = (data / "metadata.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith("patient0001_4CH_ED"))
    (data / "metadata.csv").write_text(text + row.replace("ED_testing,", "ED_testing_0,") + "\n")
    flags = ("--data-dir", data, "--model-path", trained / "model.pth", "--output-dir", tmp_path / "o", "--gpu", "cpu")
    assert judge(*flags, "--test-viz-num", 0) == 0
    with open(tmp_path / "o" / "ejection_fraction.csv", newline="") as file:
        assert [row["patient"] for row in csv.DictReader(file)] == ["patient0001"]


def test_the_results_of_a_training_are_never_replaced(judge, trained, hearts, tmp_path, capsys, monkeypatch):
    """By default they go to a folder of their own; that of a training is refused."""
    flags = ("--data-dir", hearts, "--model-path", trained / "model.pth", "--gpu", "cpu", "--test-viz-num", 0)
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    assert judge(*flags, "--output-dir", trained) == 2
    assert "holds a training (last.pth, log.csv)" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "output")  # where runner.py writes by default
    assert judge(*flags) == 0
    assert (tmp_path / "output_test" / "summary.json").is_file()
    for folder in (trained, tmp_path / "output"):
        assert {folder / file.relative_to(trained): text for file, text in before.items()} == {
            file: file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }


def test_shuffled_cases_are_the_same_cases(judge, trained, hearts, tmp_path):
    flags = ("--data-dir", hearts, "--model-path", trained / "model.pth", "--output-dir", tmp_path, "--gpu", "cpu")
    assert judge(*flags, "--test-shuffle", "--test-viz-num", 0, "--cache-gb", 0, "--num-workers", 0) == 0
    lines = [(folder / "metrics.csv").read_text().splitlines() for folder in (trained, tmp_path)]
    assert lines[0] != lines[1]
    assert sorted(lines[0]) == sorted(lines[1])
    assert not (tmp_path / "figures" / "overlays.png").exists()


def test_a_published_checkpoint_takes_mean_and_std_from_flags_or_data(judge, hearts, tmp_path, capsys):
    torch.manual_seed(0)
    state = {f"_orig_mod.{name}": tensor for name, tensor in build_camus_unet(4).state_dict().items()}
    torch.save(state, tmp_path / "published.pth")
    flags = ("--data-dir", hearts, "--model-path", tmp_path / "published.pth", "--gpu", "cpu")
    assert judge(*flags, "--output-dir", tmp_path / "a") == 0
    assert f"from the training split of {hearts}" in capsys.readouterr().out
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    given = ("--mean", summary["mean"], "--std", summary["std"])
    assert judge(*flags, *given, "--output-dir", tmp_path / "b") == 0
    assert "from --mean and --std" in capsys.readouterr().out
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()


def test_statistics_by_hand():
    assert describe(np.array([1, 2, 6, np.nan])) == {"mean": 3, "std": pytest.approx(7**0.5), "median": 2, "n": 3}
    rows = make_rows([0.8, 0.0, np.nan])
    rows[1]["lv_endo_hd"] = rows[2]["lv_endo_hd"] = np.nan
    found = summarise_cases(rows)["lv_endo"]
    assert (found["absent"], found["missed"], found["dice"]["n"], found["hd"]["n"]) == (1, 1, 2, 1)
    assert found["dice"]["mean"] == pytest.approx(0.4)
    grouped = summarise(make_rows([0.5, 0.7, 0.9], view=["2CH", "4CH", "4CH"]))
    assert grouped["view"]["4CH"]["lv_endo"]["dice"]["mean"] == pytest.approx(0.8)
    assert grouped["phase"] == {}


def test_a_new_distance_has_a_column_of_its_own(monkeypatch):
    rows = [row | {"lv_endo_new": 7.0} for row in make_rows([0.8, 0.6])]
    columns = " ".join(summary.table(summarise(rows)).splitlines()[0].split())
    assert columns == "Dice HD95 px@128 HD px@128 MSD px@128"
    monkeypatch.setattr(summary, "METRICS", (*summary.METRICS, "new"))
    monkeypatch.setattr(summary, "DISTANCES", (*summary.DISTANCES, "new"))
    header, line, *_ = summary.table(summarise(rows)).splitlines()
    assert header.endswith("NEW px@128") and line.endswith("7.000 +/- 0.000") and len(line) == len(header)


def test_console_line_is_the_published_one():
    overall = {
        name: {"dice": {"mean": mean, "std": 0.01}} for name, mean in (("lv_endo", 0.9), ("lv_epi", 0.8), ("la", 0.7))
    }
    assert console_line(overall) == (
        "Test Dice: [Mean: 0.8000] [Lv endo 0.9000] [Lv Epi 0.8000] [Lv Atrium 0.7000] "
        "[Lv endo std 0.0100] [Lv Epi std 0.0100] [Lv Atrium std 0.0100]"
    )
    overall["la"]["dice"]["mean"] = float("nan")  # absent in the whole split
    assert console_line(overall).startswith("Test Dice: [Mean: 0.8500]")


def test_bootstrap_resamples_patients():
    dice = np.random.default_rng(0).normal(0.9, 0.03, 40)
    low, high = bootstrap_interval(make_rows(dice), dice, 4000, 0)
    error = dice.std() / 40**0.5
    assert (low, high) == (
        pytest.approx(dice.mean() - 1.96 * error, abs=2e-3),
        pytest.approx(dice.mean() + 1.96 * error, abs=2e-3),
    )
    doubled = make_rows(np.repeat(dice, 2), patient=np.repeat(np.arange(40).astype(str), 2))
    assert bootstrap_interval(doubled, np.repeat(dice, 2), 4000, 0) == pytest.approx([low, high], abs=1e-3)
    alone = make_rows(np.repeat(dice, 2))
    narrow = bootstrap_interval(alone, np.repeat(dice, 2), 4000, 0)
    assert narrow[1] - narrow[0] < 0.8 * (high - low)


def test_overlays_are_of_the_best_the_median_and_the_worst():
    rows = make_rows([0.3, 0.9, 0.1, 0.5, 0.7])
    assert pick_cases(rows, 3) == [1, 3, 2]
    assert pick_cases(rows, 9) == [1, 4, 3, 0, 2]
    assert pick_cases(rows, 0) == []


def test_json_has_no_nan():
    assert without_nan({"a": [float("nan"), 1.5], "b": {"c": float("inf")}}) == {"a": [None, 1.5], "b": {"c": None}}
