"""augment_camus_labels: training folders, label maps to sample from, and unusable input."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from camus import METADATA_COLUMNS, VIEW_NAMES
from dataset_description import camus as camus_description
from names import ALL_VIEWS, parse_stem
from view_folders import encode_png, read_image, read_metadata

KINDS = ("images", "annotations", "sector_annotations")


def augment(run, source, out, *flags):
    return run("augment_camus_labels", "--data_folder", source, "--save_folder", out, *flags)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def view(extracted, tmp_path) -> Path:
    """A copy of one extracted view folder, to be damaged."""
    return Path(shutil.copytree(extracted / "2CH_ED", tmp_path / "2CH_ED"))


def test_training_folder_has_each_frames_own_labels(run, extracted, tmp_path):
    outcome = augment(run, extracted, tmp_path, "--add_augmentation", "False")
    assert outcome.code == 0 and "72 undeformed sector label maps and 8 testing frames" in outcome.out
    assert names(tmp_path) == {f"{view}_sector" for view in (*VIEW_NAMES, ALL_VIEWS)}
    for split in ("training", "validation", "testing"):
        source, made = extracted / "4CH_ES", tmp_path / "4CH_ES_sector"
        for name in names(source / "images" / split):
            image, label, sector = (read_image(made / kind / split / name) for kind in KINDS)
            assert np.array_equal(image, read_image(source / "images" / split / name))
            assert np.array_equal(label, read_image(source / "annotations" / split / name))
            assert np.array_equal(sector, np.where(image > 0, camus_description().conditions[label], 0))
        assert all(names(made / kind / split) == names(source / "images" / split) for kind in KINDS)
    assert (tmp_path / "2CH_ED_sector/metadata.csv").read_bytes() == (extracted / "2CH_ED/metadata.csv").read_bytes()


def test_deformed_maps_to_sample_from(extracted, augmented):
    assert names(augmented) == {f"{view}_augmented" for view in (*VIEW_NAMES, ALL_VIEWS)}
    for view in (*VIEW_NAMES, ALL_VIEWS):
        source, made = extracted / view, augmented / f"{view}_augmented"
        for split in ("training", "validation"):
            stems = [Path(name).stem for name in names(source / "images" / split)]
            expected = {f"{stem}_{k}.png" for stem in stems for k in (0, 1)}
            assert all(names(made / kind / split) == expected for kind in KINDS)
        assert names(made / "images/testing") == names(source / "images/testing"), "once, under their own names"
        assert names(made / "annotations/testing") == names(source / "images/testing")
        assert not (made / "sector_annotations/testing").exists()


def test_deformed_maps_are_cut_at_the_frames_own_cone(extracted, augmented):
    made = augmented / "2CH_ED_augmented"
    changed = 0
    for name in names(made / "images/training"):
        image, label, sector = (read_image(made / kind / "training" / name) for kind in KINDS)
        own = parse_stem(Path(name).stem).source + ".png"
        assert np.array_equal(image, read_image(extracted / "2CH_ED/images/training" / own))
        assert np.array_equal(sector, np.where(image > 0, camus_description().conditions[label], 0))
        changed += not np.array_equal(label, read_image(extracted / "2CH_ED/annotations/training" / own))
        assert set(np.unique(label)) == {0, 1, 2, 3}
    assert changed == 16


def test_metadata_travels_along(extracted, augmented):
    known, rows = read_metadata(extracted / "2CH_ES"), read_metadata(augmented / "2CH_ES_augmented")
    assert len(rows) == 9 * 2 + 1
    for stem, row in rows.items():
        assert tuple(row) == METADATA_COLUMNS
        source = known[parse_stem(stem).source]
        assert {**row, "stem": source["stem"]} == source


def test_a_frame_is_deformed_alike_in_its_view_and_in_all_views(augmented):
    for name in names(augmented / "4CH_ED_augmented/annotations/training"):
        both = [augmented / f"{v}_augmented/annotations/training" / name for v in ("4CH_ED", ALL_VIEWS)]
        assert both[0].read_bytes() == both[1].read_bytes()


def test_same_seed_same_files_whatever_the_workers(run, extracted, augmented, tmp_path, tree):
    flags = ("--n_repeat", 2, "--num_workers", 2)
    assert augment(run, extracted / "2CH_ED", tmp_path / "a", *flags).code == 0
    assert tree(tmp_path / "a/2CH_ED_augmented") == tree(augmented / "2CH_ED_augmented")
    assert augment(run, extracted / "2CH_ED", tmp_path / "b", *flags, "--seed", 1).code == 0
    assert tree(tmp_path / "b/2CH_ED_augmented") != tree(augmented / "2CH_ED_augmented")


def test_more_repeats_keep_the_first_ones(run, extracted, augmented, tmp_path, tree):
    assert augment(run, extracted / "2CH_ED", tmp_path, "--n_repeat", 3).code == 0
    more = tree(tmp_path / "2CH_ED_augmented")
    assert all(more[name] == data for name, data in tree(augmented / "2CH_ED_augmented").items() if "csv" not in name)


def test_rejections_are_counted(run, extracted, tmp_path, monkeypatch):
    monkeypatch.setattr("deformation.warp", lambda label, cone, drawn: np.zeros_like(label))
    outcome = augment(run, extracted / "2CH_ED", tmp_path, "--n_repeat", 2)
    assert "18 deformed label maps (180 deformations drawn again, 18 maps left undeformed)" in outcome.out


def test_existing_output_is_refused_or_replaced(run, extracted, tmp_path, tree):
    assert augment(run, extracted / "2CH_ED", tmp_path, "--n_repeat", 2).code == 0
    before = tree(tmp_path)
    outcome = augment(run, extracted / "2CH_ED", tmp_path, "--n_repeat", 1)
    assert outcome.code == 2 and "already holds 2CH_ED_augmented" in outcome.err and tree(tmp_path) == before
    assert augment(run, extracted / "2CH_ED", tmp_path, "--n_repeat", 1, "--overwrite", "yes").code == 0
    assert not [name for name in tree(tmp_path) if name.endswith("_1.png")]
    sector = augment(run, extracted / "2CH_ED", tmp_path, "--add_augmentation", "no")
    assert sector.code == 0 and names(tmp_path) == {"2CH_ED_augmented", "2CH_ED_sector"}


def test_hidden_and_foreign_files_are_passed_over(run, view, tmp_path):
    for name in (".DS_Store", "._patient0001_2CH_ED_training.png", "Thumbs.db"):
        (view / "images/training" / name).write_bytes(b"junk")
    outcome = augment(run, view, tmp_path / "out")
    assert outcome.code == 0 and "45 deformed label maps" in outcome.out
    assert "_augmented --resume_checkpoint CHECKPOINT --num_steps 10 --all True" in outcome.out.splitlines()[-1]


def test_every_unusable_file_is_listed(run, view, tmp_path):
    files = sorted((view / "images/training").iterdir())
    labels = sorted((view / "annotations/training").iterdir())
    files[0].write_bytes(b"")
    labels[1].write_bytes(encode_png(np.full((64, 64), 7, np.uint8)))
    labels[2].write_bytes(encode_png(np.zeros((64, 32), np.uint8)))
    files[3].write_bytes(files[3].read_bytes()[:-30])
    labels[4].unlink()
    files[5].unlink()
    files[6].write_bytes(encode_png(np.zeros((64, 64), np.uint8)))
    labels[7].write_bytes(cv2.imencode(".png", np.full((64, 64), 300, np.uint16))[1].tobytes())
    odd = view / "images/validation/frame7.png"
    shutil.copy(next((view / "images/validation").iterdir()), odd)
    stray = view / "images/validation" / labels[6].name
    for kind in ("images", "annotations"):
        shutil.copy(labels[6], view / kind / "validation" / labels[6].name)
    copy = labels[6].with_name(labels[6].stem + "_0.png")
    for folder in (files[6].parent, labels[6].parent):
        shutil.copy(labels[6], folder / copy.name)
    outcome = augment(run, view, tmp_path / "out")
    assert outcome.code == 2 and f"{view} has 11 problems" in outcome.err
    for message in (
        f"{files[0]} is empty (0 bytes)",
        f"{labels[1]} has label values outside 0-3: 7",
        f"{files[2]} is 64 x 64 pixels, its label {labels[2].name} 64 x 32",
        f"{files[3]} is truncated",
        f"{files[4]} has no label map in {labels[4].parent}",
        f"{labels[5]} has no image in {files[5].parent}",
        f"{files[6]} is 0 everywhere",
        f"{labels[7]} has values from 300 to 300: no label map of 8 bits",
        f"{odd}: 'frame7' is not <patient>_<view>_<split>",
        f"{stray} lies in the folder of validation",
        f"{files[6].with_name(copy.name)} is a deformed copy",
    ):
        assert message in outcome.err
    assert not any((tmp_path / "out").iterdir())


def test_metadata_that_cannot_be_is_told_before_the_work(run, view, tmp_path, monkeypatch):
    monkeypatch.setattr("augment_camus_labels.process_pair", None)
    path = view / "metadata.csv"
    path.write_text(f"{path.read_text()}x{',' * 12}101,,\n")
    outcome = augment(run, view, tmp_path / "out")
    assert outcome.code == 2 and "metadata.csv" in outcome.err and "less than or equal to 100" in outcome.err
    assert not (tmp_path / "out").exists()


def test_no_view_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "is neither a view folder" in (outcome := augment(run, tmp_path / "empty", tmp_path / "out")).err
    assert outcome.code == 2
    assert "absent is not a folder" in augment(run, tmp_path / "absent", tmp_path / "out").err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--n_repeat", 0), "--n_repeat 0"),
        (("--seed", -3), "--seed -3"),
        (("--add_augmentation", "maybe"), "'maybe' is neither a yes"),
    ],
)
def test_impossible_settings(run, extracted, tmp_path, flags, message):
    outcome = augment(run, extracted / "2CH_ED", tmp_path / "out", *flags)
    assert outcome.code == 2 and message in outcome.err and not (tmp_path / "out").exists()


def test_frames_whose_outside_is_not_0_are_told_by_name_and_fitted_if_asked(run, view, tmp_path):
    """A level shifted by one makes the cone the whole picture by the plain rule: class 0 would be empty."""
    flags = ("--add_augmentation", "False")
    assert augment(run, view, tmp_path / "exact", *flags).err.count("--cone fit") == 0
    files = sorted((view / "images/training").iterdir())
    for path in files:
        path.write_bytes(encode_png(np.minimum(read_image(path), 254) + 1))
    plain, fit = (augment(run, view, tmp_path / cone, "--cone", cone, *flags) for cone in ("plain", "fit"))
    assert plain.code == fit.code == 0 and "--cone fit" not in fit.err
    assert all(f"{path} is 0 nowhere" in plain.err for path in files)
    for path in files:
        exact, by_plain, by_fit = (
            read_image(tmp_path / cone / f"{view.name}_sector/sector_annotations/training/{path.name}") != 0
            for cone in ("exact", "plain", "fit")
        )
        assert by_plain.all() and (exact & by_fit).sum() > 0.93 * (exact | by_fit).sum()


@pytest.mark.parametrize("flags", [("--n_repeat", 7), ("--seed", 3)])
def test_flags_of_deformations_where_nothing_is_deformed_are_refused(run, extracted, tmp_path, flags):
    given = ("--data_folder", extracted, "--save_folder", tmp_path / "out", "--add_augmentation", False)
    refused = run("augment_camus_labels", *given, *flags)
    assert refused.code == 2 and f"{flags[0]} {flags[1]} has no effect with --add_augmentation False" in refused.err


def test_a_row_that_stands_twice_in_the_table_is_refused(run, extracted, tmp_path):
    shutil.copytree(extracted, tmp_path / "views")
    for table in (tmp_path / "views").rglob("metadata.csv"):
        table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    refused = run("augment_camus_labels", "--data_folder", tmp_path / "views", "--save_folder", tmp_path / "out")
    assert refused.code == 2 and "1 stems stand in it more than once" in refused.err
