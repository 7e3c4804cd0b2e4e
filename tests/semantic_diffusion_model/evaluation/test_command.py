"""The command from folders to a report, and what it refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_echoes import write_synthetic

FOLDER = Path(__file__).resolve().parents[3] / "semantic_diffusion_model"


def run(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, FOLDER / "image_evaluate.py", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)


@pytest.fixture
def without_figures(monkeypatch) -> None:
    """Figures take most of the time of so small an evaluation; the report of the real process has them."""
    from guided_diffusion.evaluation import figures

    monkeypatch.setattr(figures, "draw", lambda *_: {})


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.fixture(scope="module")
def report(real_dir, synthetic_dir, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A set with four training frames smuggled in (4 %), evaluated by a real process, with perfect predictions."""
    from dataset_description import camus

    folder = tmp_path_factory.mktemp("report")
    made = copy_of(synthetic_dir, folder / "results")
    for i, path in enumerate(sorted((made / "samples").iterdir())[10:50:10]):
        frame = cv2.imread(str(real_dir / "images" / "training" / f"patient000{i + 1}_2CH_ED_training.png"), 0)
        cv2.imwrite(str(path), frame[:, ::-1] if i % 2 else frame)
    (folder / "predictions" / "labels").mkdir(parents=True)
    for path in (made / "labels").iterdir():
        seen = camus().from_conditions(cv2.imread(str(path), 0))
        cv2.imwrite(str(folder / "predictions" / "labels" / path.name), seen)
    done = run(
        *("--real_dir", real_dir, "--synthetic_dir", made, "--output_dir", folder / "evaluation", "--bootstrap", 200),
        *("--predictions", folder / "predictions", "--ssim_pairs", 30, "--batch_size", 50),
    )
    return folder / "evaluation", done


def test_the_command_says_what_it_does_and_what_it_wrote(report):
    folder, done = report
    assert done.returncode == 0, done.stderr[-3000:]
    first, *_, wrote, last = done.stdout.strip().splitlines()
    assert first.startswith("comparing 100 synthetic with 40 real training frames, 24 held out, 64 x 64 pixels")
    assert wrote == f"written: {folder / 'evaluation.md'}" and "training frames: 40 of 40 in" in done.stderr
    assert last.startswith("next: python ") and "prepare_inference4segmentation.py" in last
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    figures = {"grey_levels", "distributions", "power_spectrum", "differences", "nearest", "closest_pairs"}
    assert names == {"evaluation.json", "evaluation.md", *(f"{name}.png" for name in figures)}
    for name in figures:
        picture = cv2.imread(str(folder / "figures" / f"{name}.png"))
        assert picture.shape[1] > 500 and len(np.unique(picture)) > 20


def test_smuggled_frames_are_counted_and_named(report):
    entry = json.loads((report[0] / "evaluation.json").read_text())
    assert entry["memorisation"]["copies"] == 4
    page = (report[0] / "evaluation.md").read_text()
    assert "4 of the 100 synthetic images (4.0%) are copies" in page
    for one in entry["memorisation"]["named"]:
        assert one["training_frame"] in page and one["correlation"] > 0.8
    assert {one["training_frame"][:11] for one in entry["memorisation"]["named"]} == {
        f"patient000{i}" for i in range(1, 5)
    }


def test_images_drawn_as_the_real_ones_are_within_the_yardstick(report):
    entry = json.loads((report[0] / "evaluation.json").read_text())
    sections = ("contrast", "speckle", "autocorrelation", "power_spectrum")
    numbers = [one for section in sections for row in entry[section].values() for one in row.values()]
    assert sum(one["outside"] for one in numbers) <= 0.2 * len(numbers)
    assert entry["diversity"]["synthetic_of_one_map"]["pairs"] == 30
    assert entry["label_agreement"]["synthetic"]["lv_endo"]["dice"] == 1 and entry["label_agreement"]["real"] is None


def test_what_is_missing_is_said_with_how_to_get_it(report):
    entry = json.loads((report[0] / "evaluation.json").read_text())
    assert entry["distances"] == {"encoder": None, "inception": None}
    page = (report[0] / "evaluation.md").read_text()
    assert "not computed: give `--feature_weights`" in page and "not computed: give `--segmentation_model`" in page


def test_every_key_of_the_page_is_there(report):
    entry = json.loads((report[0] / "evaluation.json").read_text())
    page = (FOLDER.parent / "docs" / "evaluation.md").read_text()
    for key in set(entry) | set(entry["images"]) | set(entry["spectrum_curve"]):
        assert f"`{key}" in page, key
    for key in {*entry["memorisation"], *entry["memorisation"]["ways"]["in place"]}:
        assert re.search(rf"memorisation\.(\{{[\w,]*)?{key}\b|`{key}`", page), key


def test_smoother_images_are_found_out(real_dir, tmp_path, evaluate, without_figures):
    write_synthetic(tmp_path / "smooth", real_dir, 40, deviation=8.0)
    code = evaluate(real_dir=real_dir, synthetic_dir=tmp_path / "smooth", output_dir=tmp_path / "out")
    assert code == 0
    entry = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert entry["grey_levels"]["lv_cavity"]["sd"]["outside"]
    assert entry["contrast"]["lv_cavity against lv_myocardium"]["cnr"]["difference"] > 0.5
    assert entry["speckle"]["lv_cavity"]["nakagami_m"]["outside"]
    assert entry["memorisation"]["copies"] == 0


def test_the_real_frames_themselves_differ_by_nothing_and_are_all_copies(
    real_dir, tmp_path, evaluate, without_figures, capsys
):
    """A set against itself; without held-out frames the yardstick of copies are other patients."""
    for kind, folder in (("samples", "images"), ("labels", "sector_annotations")):
        shutil.copytree(real_dir / folder / "training", tmp_path / "made" / kind)
        shutil.copytree(real_dir / folder / "training", tmp_path / "real" / folder / "training")
    code = evaluate(real_dir=tmp_path / "real", synthetic_dir=tmp_path / "made", output_dir=tmp_path / "out")
    assert code == 0
    entry = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for section in ("grey_levels", "contrast", "speckle", "autocorrelation", "power_spectrum"):
        assert all(one["difference"] in (0, None) for row in entry[section].values() for one in row.values()), section
    assert entry["memorisation"]["copies"] == 40 and entry["memorisation"]["held_out_are_training"]
    assert "40 of the 40 synthetic images (100.0%) are copies" in capsys.readouterr().out


def test_two_sets_are_compared_by_label_map(real_dir, synthetic_dir, tmp_path, evaluate):
    write_synthetic(tmp_path / "smooth", real_dir, 50, deviation=8.0)
    flags = {"real_dir": real_dir, "output_dir": tmp_path / "out", "compare": (synthetic_dir, tmp_path / "smooth")}
    assert evaluate(**flags) == 0
    entry = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert entry["label_maps_in_common"] == 50 and entry["patients"] == 40
    sd = entry["grey_levels"]["lv_cavity"]["sd"]
    assert sd["closer_to_real"] == "A" and sd["b"] < sd["a"]
    for name in ("A", "B"):
        assert (tmp_path / "out" / name / "evaluation.json").is_file()
    assert (tmp_path / "out" / "figures" / "comparison.png").is_file()
    assert "closer to real" in (tmp_path / "out" / "evaluation.md").read_text()


def test_the_same_seed_gives_the_same_report_in_any_batch(real_dir, synthetic_dir, tmp_path, evaluate, without_figures):
    for name, batch in (("first", 64), ("second", 7)):
        flags = {"real_dir": real_dir, "synthetic_dir": synthetic_dir, "num_samples": 20, "batch_size": batch}
        assert evaluate(**flags, output_dir=tmp_path / name) == 0
    texts = [(tmp_path / name / "evaluation.json").read_text() for name in ("first", "second")]
    first, second = map(json.loads, texts)
    assert first["images"]["synthetic"] == 20
    assert first["diversity"] == second["diversity"]
    for section in ("contrast", "speckle", "autocorrelation"):
        for row, keys in first[section].items():
            for key, one in keys.items():
                other = second[section][row][key]
                assert one["interval"] == pytest.approx(other["interval"], rel=1e-9, nan_ok=True)
                assert one["yardstick"] == pytest.approx(other["yardstick"], rel=1e-9)


# --- Bad input: one line, exit code 2 ---------------------------------------------------------------------------------


def png(path: Path, values: np.ndarray) -> None:
    assert cv2.imwrite(str(path), values)


def change_one(folder: Path, kind: str, values: np.ndarray) -> None:
    png(sorted((folder / kind).iterdir())[3], values)


FLAT, SMALL = np.full((64, 64), 90, np.uint8), np.arange(32 * 32).reshape(32, 32).astype(np.uint8)
WRONG = {
    "an image without label map": (lambda f: next((f / "labels").iterdir()).unlink(), "no label map of this name"),
    "a label map without image": (lambda f: next((f / "samples").iterdir()).unlink(), "no image of this name"),
    "no samples": (lambda f: shutil.rmtree(f / "samples"), "no pictures in samples/"),
    "a constant image": (lambda f: change_one(f, "samples", FLAT), "is constant: grey level 90"),
    "an image of another size": (lambda f: change_one(f, "samples", SMALL), "32 x 32 and 64 x 64"),
    "classes that nobody knows": (lambda f: change_one(f, "labels", FLAT), "has the value 90"),
    "an empty label map": (lambda f: change_one(f, "labels", 0 * FLAT), "is 0 everywhere"),
    "a damaged image": (lambda f: sorted((f / "samples").iterdir())[0].write_bytes(b"\x89PNG\r\n"), "damaged"),
}


def few(folder: Path) -> None:
    for path in sorted((folder / "samples").iterdir())[9:]:
        path.unlink()
        (folder / "labels" / path.name).unlink()


def not_a_number(folder: Path) -> None:
    path = sorted((folder / "samples").iterdir())[0]
    path.unlink()
    values = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    values[5, 5] = np.nan
    Image.fromarray(values).save(path.with_suffix(".tif"))


WRONG |= {"fewer than 10 images": (few, "has 9 images"), "NaN": (not_a_number, "more than 8 bits")}


PROGRESS = re.compile(r"frames: \d+ of \d+ in \d")


@pytest.mark.parametrize("what", WRONG)
def test_bad_input_ends_in_one_line_and_nothing_is_written(real_dir, synthetic_dir, tmp_path, evaluate, capsys, what):
    spoil, expected = WRONG[what]
    folder = copy_of(synthetic_dir, tmp_path / "made")
    spoil(folder)
    assert evaluate(real_dir=real_dir, synthetic_dir=folder, output_dir=tmp_path / "out") == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not PROGRESS.search(line)]
    assert told[0].startswith("error: ") and expected in " ".join(told) and len(told) <= 3
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_sets_of_two_sizes_are_refused(real_dir, synthetic_dir, tmp_path, evaluate, capsys):
    made = tmp_path / "made"
    for kind in ("samples", "labels"):
        (made / kind).mkdir(parents=True)
        for path in sorted((synthetic_dir / kind).iterdir())[:12]:
            png(made / kind / path.name, cv2.imread(str(path), 0)[::2, ::2])
    assert evaluate(real_dir=real_dir, synthetic_dir=made, output_dir=tmp_path / "out") == 2
    assert "32 x 32 pixels, others 64 x 64: bring all to one size" in capsys.readouterr().err


FLAGS = {
    "no real frames": ({"real_dir": ""}, "--real_dir is needed"),
    "nothing to evaluate": ({"synthetic_dir": ""}, "give either --synthetic_dir"),
    "both": ({"compare": ("A", "B")}, "give either --synthetic_dir"),
    "one set to compare": ({"synthetic_dir": "", "compare": ("A",)}, "takes two folders"),
    "no folder": ({"synthetic_dir": "/nowhere"}, "/nowhere is not a folder"),
    "too many predictions": ({"predictions": (".", ".")}, "--predictions: 2 given for 1 sets"),
    "predictions of real frames alone": ({"real_predictions": "."}, "give both"),
    "a range beyond sense": ({"dynamic_range": 1}, "--dynamic_range"),
    "too few resamplings": ({"bootstrap": 3}, "--bootstrap"),
    "no weights": ({"feature_weights": "/nowhere.pth"}, "/nowhere.pth does not exist"),
    "no segmentation": ({"segmentation_model": "/nowhere.pth"}, "/nowhere.pth does not exist"),
    "too few samples": ({"num_samples": 5}, "at least 10 are needed"),
}


@pytest.mark.parametrize("what", FLAGS)
def test_flags_that_make_no_sense_are_told(real_dir, synthetic_dir, tmp_path, evaluate, capsys, what):
    changes, expected = FLAGS[what]
    flags = {"real_dir": real_dir, "synthetic_dir": synthetic_dir, "output_dir": tmp_path / "out"} | changes
    assert evaluate(**{name: value for name, value in flags.items() if value != ""}) == 2
    assert expected in capsys.readouterr().err


def test_a_real_folder_without_training_frames_is_refused(real_dir, synthetic_dir, tmp_path, evaluate, capsys):
    folder = copy_of(real_dir, tmp_path / "real")
    shutil.rmtree(folder / "sector_annotations" / "training")
    assert evaluate(real_dir=folder, synthetic_dir=synthetic_dir, output_dir=tmp_path / "out") == 2
    assert "sector_annotations/training" in capsys.readouterr().err


def test_sets_without_a_common_label_map_cannot_be_compared(real_dir, synthetic_dir, tmp_path, evaluate, capsys):
    made = copy_of(synthetic_dir, tmp_path / "made")
    (made / "manifest.csv").unlink()
    for kind in ("samples", "labels"):
        for path in sorted((made / kind).iterdir()):
            path.rename(path.with_name(f"other_{path.name}"))
    flags = {"real_dir": real_dir, "compare": (synthetic_dir, made), "output_dir": tmp_path / "out"}
    assert evaluate(**flags) == 2
    assert "no label map in common" in capsys.readouterr().err


def test_a_folder_in_use_or_with_something_else_in_it_is_left_alone(
    real_dir, synthetic_dir, tmp_path, evaluate, capsys
):
    flags = {"real_dir": real_dir, "synthetic_dir": synthetic_dir, "output_dir": tmp_path}
    (tmp_path / "thesis.txt").write_text("mine")
    assert evaluate(**flags) == 2 and "is not empty (thesis.txt)" in capsys.readouterr().err
    assert evaluate(**flags, overwrite=True) == 2 and "holds no evaluation" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_evaluation_is_replaced_only_when_asked(report, real_dir, synthetic_dir, evaluate, capsys):
    flags = {"real_dir": real_dir, "synthetic_dir": synthetic_dir, "output_dir": report[0]}
    before = (report[0] / "evaluation.json").read_bytes()
    assert evaluate(**flags) == 2 and "add --overwrite True" in capsys.readouterr().err
    assert (report[0] / "evaluation.json").read_bytes() == before


def test_a_mistake_in_a_real_process_is_one_line_and_code_2(real_dir):
    done = run("--real_dir", real_dir, "--sythetic_dir", "x")
    assert done.returncode == 2 and not done.stdout
    assert (
        done.stderr.strip()
        == "error: there is no flag --sythetic_dir: did you mean --synthetic_dir? (--help lists all settings)"
    )
