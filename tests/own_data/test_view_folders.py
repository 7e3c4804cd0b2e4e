"""Which folders are views of a set, to be read or replaced with it, and which are somebody's own data."""

import json
import shutil
from pathlib import Path

import pytest
from made_up_sets import write_heads, write_stills

from view_folders import names_of_set


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path) -> Path:
    """Data of one's own that look like a view folder: data/fetal/{images,annotations,dataset.json} and a table."""
    folder = write_heads(tmp_path / "data" / "fetal", patients=5, size=32).parent
    (folder / "pictures").rename(folder / "images")
    (folder / "maps").rename(folder / "annotations")
    return folder


@pytest.mark.parametrize("table", ["splits.csv", "metadata.csv"])
def test_source_data_that_look_like_a_view_folder_are_never_replaced(run, source, tmp_path, table):
    description = json.loads((source / "dataset.json").read_text())
    description["names"]["table"]["path"] = table
    (source / "dataset.json").write_text(json.dumps(description))
    (source / "splits.csv").rename(source / table)
    before = tree(source)
    assert "fetal" not in names_of_set(source.parent)
    stills = write_stills(tmp_path / "stills", patients=8).parent
    where = ("--images", stills / "frames", "--labels", stills / "frames", "--dataset", stills / "dataset.json")
    done = run("extract_dataset", *where, "--save_folder_path", source.parent, "--overwrite", "True")
    assert done.code == 0 and tree(source) == before, done.err
    where = ("--images", source / "images", "--labels", source / "annotations", "--dataset", source / "dataset.json")
    done = run("extract_dataset", *where, "--save_folder_path", source.parent, "--overwrite", "True")
    assert done.code == 0 and tree(source) == before, done.err
    assert names_of_set(source.parent)[-3:] == ["left", "right", "all_views"]


@pytest.mark.parametrize("name", [" {} ", "{} ", " {}"])
def test_names_with_blanks_at_their_ends_stay_as_they_are(run, heads, describe, extract_heads, tmp_path, name):
    for path in [path for kind in ("pictures", "maps") for path in (heads / kind).iterdir()]:
        path.rename(path.with_stem(name.format(path.stem)))
    describe(lambda content: content["names"].pop("table"))
    describe(lambda content: content["names"].update(pattern=r"(?P<patient> ?HC_\d+) \((?P<view>left|right)\) ?"))
    assert extract_heads().code == 0
    done = run("augment_camus_labels", "--data_folder", tmp_path / "views", "--save_folder", tmp_path / "a")
    assert done.code == 0, done.err
    stems = {path.stem for path in (tmp_path / "a" / "all_views_augmented" / "images" / "testing").iterdir()}
    assert stems and stems <= {path.stem for path in (heads / "pictures").iterdir()}


@pytest.mark.parametrize("table", [True, False])
def test_a_description_and_its_table_are_not_replaced(run, heads, describe, table):
    """They lie in a folder that would be made: left, the name of a view."""
    (heads / "left").mkdir()
    place = heads / "dataset.json"
    if table:
        describe(lambda content: content["names"]["table"].update(path="left/splits.csv"))
    else:
        place = place.rename(heads / "left" / "dataset.json")
    read = (heads / "splits.csv").rename(heads / "left" / "splits.csv") if table else place
    if not table:
        shutil.copy(heads / "splits.csv", heads / "left")
    where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", place)
    outcome = run("extract_dataset", *where, "--save_folder_path", heads, "--overwrite", "True")
    assert outcome.code == 2 and f"{read}, which is read here, would be replaced" in outcome.err
    assert read.is_file()


def test_what_is_read_is_not_replaced(run, heads, tmp_path):
    shutil.move(heads / "pictures", tmp_path / "views" / "left" / "images")
    where = (
        "--images",
        tmp_path / "views/left/images",
        "--labels",
        heads / "maps",
        "--dataset",
        heads / "dataset.json",
    )
    outcome = run("extract_dataset", *where, "--save_folder_path", tmp_path / "views", "--overwrite")
    assert outcome.code == 2 and "which is read here, would be replaced" in outcome.err
    assert len(list((tmp_path / "views/left/images").iterdir())) == 10


def test_folders_made_from_views_are_no_views(extract_heads, run, tmp_path):
    assert extract_heads().code == 0
    views = tmp_path / "views"
    for _ in range(2):  # the second time beside what the first has made
        made = run(
            "augment_camus_labels", "--data_folder", views, "--save_folder", views, "--n_repeat", 1, "--overwrite"
        )
        assert made.code == 0, made.err
    assert {path.name for path in views.iterdir()} == {
        name for view in ("left", "right", "all_views") for name in (view, f"{view}_augmented")
    }


@pytest.mark.parametrize("place", ["2CH_ED/raw_dicom/a.dcm", "all_views/thesis.txt", "left/notes.txt"])
def test_folders_that_the_toolkit_has_not_made_are_not_replaced(extract_heads, tmp_path, place):
    """Whatever they are called: like a view that is extracted, or like one of CAMUS."""
    mine = tmp_path / "views" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    refused = extract_heads("--overwrite", "True")
    assert refused.code == 2 and f"holds {place.split('/')[0]}, which does not look made by this toolkit" in refused.err
    assert tree(tmp_path / "views") == {place: b"mine"}


def test_deforming_does_not_replace_what_it_reads(run, extract_heads, tmp_path):
    """A view of one's own may be called like the folder that is made of another."""
    assert extract_heads().code == 0
    views = tmp_path / "views"
    (views / "right").rename(views / "left_sector")
    before = tree(views)
    flags = ("--data_folder", views, "--save_folder", views, "--add_augmentation", "False", "--overwrite", "True")
    refused = run("augment_camus_labels", *flags)
    assert refused.code == 2 and "left_sector, which is read here, would be replaced" in refused.err
    assert tree(views) == before


def test_flags_without_effect_are_refused(run, heads, extract_heads, tmp_path):
    assert extract_heads().code == 0
    flags = ("--data_folder", tmp_path / "views", "--save_folder", tmp_path / "out", "--cone", "fit")
    refused = run("augment_camus_labels", *flags)  # heads lie in no sector
    assert refused.code == 2 and "--cone fit has no effect on a data set whose description has no sector" in refused.err
    where = ("--images", heads / "pictures", "--labels", heads / "maps", "--dataset", tmp_path / "new.json")
    for flag, value in (("--seed", 9), ("--overwrite", True), ("--share_testing", 0.5), ("--save_folder_path", "x")):
        refused = run("extract_dataset", *where, "--write_template", True, flag, value)
        assert refused.code == 2 and f"{flag} {value} has no effect with --write_template True" in refused.err
    assert not (tmp_path / "new.json").exists()
