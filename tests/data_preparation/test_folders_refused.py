"""Folders that are not whole, not ours, or not what they are taken for, and people in two splits by them."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from extracting import extract
from preparing import prepare, sample

import command
from augment_camus_labels import AugmentSettings
from names import SPLITS, naming_of
from sampling_results import find_results
from view_folders import METADATA, read_metadata


def sampled(augmented: Path, view: str, results: Path) -> Path:
    """Results of a sampling for the label maps of a view, with the rows of metadata.csv that travel with them."""
    sample(augmented / f"{view}_augmented", results)
    shutil.copy(augmented / f"{view}_augmented" / METADATA, results)
    return results


def rewrite(folder: Path, change) -> None:
    """Change each row of the metadata.csv of view folders in `folder`."""
    for table in folder.rglob(METADATA):
        with open(table, newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            change(row)
        with open(table, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("words", [["--data_folder", "", "--save_folder", "x"], ["--data-folder=", "--save_folder=x"]])
def test_an_empty_word_is_no_folder(words):
    """As an unset variable of a shell leaves it: it would be the present folder."""
    with pytest.raises(command.UserError, match="^--data[_-]folder: expected is a path, and the word is empty"):
        command.parse_settings(AugmentSettings, words)


def test_a_command_without_words_lacks_what_it_needs():
    with pytest.raises(command.UserError, match="data_folder"):
        command.parse_settings(AugmentSettings, [])


def test_results_beside_others_in_the_same_folder_are_told(tmp_path, capsys):
    for name in ("results", "results/2CH_ES"):
        for kind in ("samples", "labels"):
            (tmp_path / name / kind).mkdir(parents=True)
    assert find_results(tmp_path / "results") == [tmp_path / "results"]
    assert "warning" in (said := capsys.readouterr().err) and "passed over: 2CH_ES" in said


@pytest.mark.parametrize("place", ["2CH_ED/raw_dicom/a.dcm", "4CH_ES/notes.txt", "all_views/thesis.txt"])
def test_what_the_toolkit_has_not_made_is_not_replaced(run, releases, tmp_path, tree, place):
    mine = tmp_path / "out" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    before = tree(tmp_path)
    refused = extract(run, releases["nifti"], tmp_path / "out", "--overwrite", "True")
    assert refused.code == 2 and f"holds {place.split('/')[0]}, which does not look made by this toolkit" in refused.err
    assert tree(tmp_path) == before


def test_a_view_folder_with_something_of_ones_own_in_it_is_not_replaced(run, extracted, releases, tmp_path):
    out = Path(shutil.copytree(extracted, tmp_path / "out"))
    assert extract(run, releases["nifti"], out, "--overwrite", "True").code == 0
    (out / "2CH_ES" / "analysis.ipynb").write_text("mine")
    refused = extract(run, releases["nifti"], out, "--overwrite", "True")
    assert refused.code == 2 and "holds 2CH_ES, which does not look made" in refused.err
    assert (out / "2CH_ES" / "analysis.ipynb").read_text() == "mine"


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_a_view_that_is_not_whole_is_not_left_out(run, extracted, tmp_path, kind):
    views = Path(shutil.copytree(extracted, tmp_path / "views"))
    shutil.rmtree(views / "4CH_ES" / kind)
    refused = run("augment_camus_labels", "--data_folder", views, "--save_folder", tmp_path / "out")
    assert refused.code == 2 and f"4CH_ES is not whole: {kind}/ is missing" in refused.err


@pytest.mark.parametrize("kind", ["samples", "labels"])
def test_results_that_are_not_whole_are_not_left_out(run, extracted, augmented, tmp_path, kind):
    for view in ("2CH_ED", "4CH_ED"):
        sampled(augmented, view, tmp_path / "results" / view)
    shutil.rmtree(tmp_path / "results/4CH_ED" / kind)
    refused = prepare(run, extracted, tmp_path / "results", tmp_path / "out")
    assert refused.code == 2 and f"4CH_ED is not whole: {kind}/ is missing" in refused.err


def test_deformed_label_maps_beside_real_images_are_no_data_set(run, extracted, augmented, tmp_path):
    flags = ("--data_folder", augmented / "2CH_ED_augmented", "--save_folder", tmp_path / "Dataset501_Echo")
    refused = run("export_nnunet", *flags)
    assert refused.code == 2 and "18 label maps are deformed (as patient" in refused.err
    results = sampled(augmented, "2CH_ED", tmp_path / "results")
    assert prepare(run, extracted, results, tmp_path / "made").code == 0
    flags = ("--data_folder", tmp_path / "made/2CH_ED", "--save_folder", tmp_path / "Dataset501_Echo")
    assert run("export_nnunet", *flags).code == 0  # synthetic images belong to theirs
    (tmp_path / "Dataset501_Echo" / "mine.txt").write_text("mine")
    refused = run("export_nnunet", *flags, "--overwrite", "True")
    assert refused.code == 2 and "holds Dataset501_Echo, which does not look made" in refused.err


def test_rows_of_synthetic_frames_are_those_of_what_was_sampled_for(run, extracted, augmented, tmp_path):
    """The test frames may know other sizes, or nothing, of the frames of training."""
    results = sampled(augmented, "2CH_ED", tmp_path / "results")
    views = Path(shutil.copytree(extracted, tmp_path / "views"))
    rewrite(views, lambda row: row.update(spacing_depth_mm="0.9"))
    assert prepare(run, views, results, tmp_path / "out").code == 0
    rows, made_from = read_metadata(tmp_path / "out/2CH_ED"), read_metadata(results)
    synthetic = {stem: row for stem, row in rows.items() if row["split"] != "testing"}
    assert synthetic == {stem: made_from[stem] for stem in synthetic} and len(synthetic) == 18
    assert {row["spacing_depth_mm"] for row in rows.values() if row["split"] == "testing"} == {"0.9"}
    rewrite(views, lambda row: row.update(image_interpolation="area"))
    refused = prepare(run, views, results, tmp_path / "other")
    assert refused.code == 2 and "with --image_interpolation nearest, the test frames with area" in refused.err


@pytest.mark.parametrize("kind", ["nifti", "mhd"])
def test_a_patient_of_synthetic_training_frames_is_not_tested_on(run, release, tmp_path, kind):
    """Where the lists of the release changed in between; the older release counts its test patients anew."""
    source = release(kind)
    assert extract(run, source, tmp_path / "views", "--save_img_size", 64).code == 0
    flags = ("--data_folder", tmp_path / "views/2CH_ED", "--n_repeat", 1)
    assert run("augment_camus_labels", *flags, "--save_folder", tmp_path / "augmented").code == 0
    results = sampled(tmp_path / "augmented", "2CH_ED", tmp_path / "results")
    if kind == "nifti":
        lists = {split: source / "database_split" / f"subgroup_{split}.txt" for split in SPLITS}
        moved, *others = lists["training"].read_text().split()
        lists["training"].write_text("\n".join(others))
        lists["testing"].write_text(moved)
        assert extract(run, source, tmp_path / "views", "--save_img_size", 64, "--overwrite", "True").code == 2
        lists["training"].write_text("\n".join([*others, *lists["validation"].read_text().split()]))
        lists["validation"].write_text(others.pop())
        lists["training"].write_text("\n".join(others))
        flags = ("--save_img_size", 64, "--overwrite", "True", "--skip_incomplete", "True")
        assert extract(run, source, tmp_path / "views", *flags).code == 0
    outcome = prepare(run, tmp_path / "views", results, tmp_path / "out")
    if kind == "mhd":
        assert outcome.code == 0, outcome.err
    else:
        assert outcome.code == 2
        assert f"{moved}_2CH_ED_training_0.png: made for training, and its patient is in testing" in outcome.err


@pytest.mark.parametrize(("source", "shared"), [("database_nifti/patient/x.nii.gz", True), ("testing/x.mhd", False)])
def test_a_fold_shares_no_patient_with_the_test(run, extracted, tmp_path, source, shared):
    view = Path(shutil.copytree(extracted / "2CH_ED", tmp_path / "2CH_ED"))
    names = {split: sorted((view / "images" / split).iterdir()) for split in ("training", "testing")}
    trained = naming_of(view).parse(names["training"][0].stem).patient
    for kind in ("images", "annotations"):
        path = view / kind / "testing" / names["testing"][0].name
        path.rename(path.with_name(f"{trained}_2CH_ED_testing.png"))

    def change(row):
        if row["split"] == "testing":
            row.update(stem=f"{trained}_2CH_ED_testing", patient=trained, source=source)

    rewrite(view, change)
    outcome = run("export_nnunet", "--data_folder", view, "--save_folder", tmp_path / "Dataset501_Echo")
    assert outcome.code == (2 if shared else 0)
    assert (f"{trained} has frames in both training and testing" in outcome.err) == shared


PRINTS = """
import sys
from dataclasses import dataclass
from command import run_command

@dataclass
class Settings:
    lines: int = 1

def main(settings):
    for number in range(settings.lines):
        print("左心室 …", number)

sys.exit(run_command(main, Settings))
"""


def printed(encoding: str, lines: int, close: bool) -> tuple[int, bytes, bytes]:
    """Exit code, output and errors of a command that prints; close: whether who reads along goes after a line."""
    settings = os.environ | {"PYTHONPATH": os.path.dirname(command.__file__), "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-c", PRINTS, "--lines", str(lines)]
    with subprocess.Popen(words, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out = process.stdout.readline()
        if close:
            process.stdout.close()
        else:
            out += process.stdout.read()
        errors = process.stderr.read()
        return process.wait(), out, errors


def test_letters_that_a_terminal_lacks_do_not_end_a_command():
    assert printed("latin-1", 2, close=False) == (
        0,
        b"\\u5de6\\u5fc3\\u5ba4 \\u2026 0\n\\u5de6\\u5fc3\\u5ba4 \\u2026 1\n",
        b"",
    )
    code, out, errors = printed("utf-8", 1, close=False)
    assert (code, out.decode(), errors) == (0, "左心室 … 0\n", b"")


def test_a_reader_that_has_gone_does_not_end_a_command():
    code, _, errors = printed("utf-8", 100_000, close=True)
    assert code == 0 and errors == b""
