"""extract_dataset: every kind of file, names as users have them, and each way in which a data set can be wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up_sets import HEADS, speckle
from PIL import Image

from command import UserError
from dataset_description import parse_description
from own_frames import OwnFrame, draw_splits
from view_folders import read_image, read_metadata


def test_the_view_folders_of_the_heads(heads, extract_heads, tmp_path):
    outcome = extract_heads()
    assert outcome.code == 0, outcome.err
    assert "10 frames of 5 patients (3 training, 1 validation, 1 testing) in 2 views (left, right)" in outcome.out
    for view, count in (("left", 5), ("right", 5), ("all_views", 10)):
        folder = tmp_path / "views" / view
        rows = read_metadata(folder)
        assert len(rows) == count
        for stem, row in rows.items():
            assert (row["patient"], row["view"]) == tuple(stem.removesuffix(")").split(" ("))
            place = Path(row["split"]) / f"{stem}.png"
            assert np.array_equal(read_image(folder / "images" / place), read_image(heads / "pictures" / row["source"]))
            label = read_image(folder / "annotations" / place)
            assert np.array_equal(label, read_image(heads / "maps" / row["source"]))
        assert {path.name for path in folder.iterdir()} == {"images", "annotations", "metadata.csv", "dataset.json"}
        found = parse_description((folder / "dataset.json").read_bytes(), "")
        assert (
            found.class_names == ("background", "skull", "brain", "cavum") and found.names.table.path == "metadata.csv"
        )


def refused(extract, tmp_path, *messages, problems=None):
    """The error holds all `messages`, each problem stands on one line, and nothing appears on disk."""
    outcome = extract()
    assert outcome.code == 2 and outcome.err.count("error:") == 1 and "Traceback" not in outcome.err
    for message in messages:
        assert message in outcome.err
    views = tmp_path / "views"
    assert not views.exists() or not any(views.iterdir())
    if problems is not None:
        assert len(outcome.err.split("error:")[1].strip().splitlines()) == 1 + problems


def relabel(path: Path, change) -> None:
    label = read_image(path)
    Image.fromarray(change(label)).save(path)


def test_a_pattern_that_matches_no_file(describe, extract_heads, tmp_path):
    describe(lambda content: content["names"].update(pattern=r"(?P<patient>XY_\d+)", table=None))
    refused(
        extract_heads, tmp_path, "names.pattern of the description matches none of the 10 names, 'HC_0040", problems=1
    )


def test_a_name_that_the_pattern_or_the_table_does_not_know(heads, extract_heads, tmp_path):
    for kind in ("pictures", "maps"):
        shutil.copy(heads / kind / "HC_0040 (left).png", heads / kind / "HC_0099 (left).png")
    refused(extract_heads, tmp_path, "HC_0099 (left).png: names", "does not match this name", problems=1)


def test_two_files_of_one_name(heads, extract_heads, tmp_path):
    shutil.copy(heads / "pictures" / "HC_0040 (left).png", heads / "pictures" / "HC_0040 (left).bmp")
    refused(extract_heads, tmp_path, "another file has this name", problems=1)


def test_a_class_that_never_occurs(describe, extract_heads, tmp_path):
    describe(lambda content: content["classes"].append({"name": "falx", "value": 9}))
    refused(extract_heads, tmp_path, "classes: 'falx', value 9, occurs in no label map", problems=1)


def test_values_that_no_class_has_are_told_with_file_and_number(heads, extract_heads, tmp_path):
    def change(label):
        label[:2, :3] = 77
        return label

    relabel(heads / "maps" / "HC_0041 (right).png", lambda label: change(label.copy()))
    refused(extract_heads, tmp_path, "HC_0041 (right).png: values that no class has: 77 (6 pixels)", problems=1)


def test_a_patient_in_two_splits(heads, extract_heads, tmp_path):
    table = heads / "splits.csv"
    table.write_text(table.read_text().replace("HC_0040 (left).png,test", "HC_0040 (left).png,train"))
    refused(
        extract_heads,
        tmp_path,
        "patient HC_0040 is in training (HC_0040 (left).png) and testing (HC_0040 (right).png)",
        problems=1,
    )


def test_a_split_of_another_word(heads, extract_heads, tmp_path):
    table = heads / "splits.csv"
    table.write_text(table.read_text().replace(",val", ",holdout"))
    refused(extract_heads, tmp_path, "the split 'holdout' is none of train, val", problems=2)


def test_image_without_label_and_the_reverse(heads, extract_heads, tmp_path):
    (heads / "maps" / "HC_0041 (left).png").unlink()
    (heads / "pictures" / "HC_0042 (left).png").unlink()
    missing = ("HC_0041 (left).png has no label map", "HC_0042 (left).png has no image")
    refused(extract_heads, tmp_path, *missing, problems=2)


def test_sizes_that_differ(heads, extract_heads, tmp_path):
    relabel(heads / "maps" / "HC_0041 (left).png", lambda label: label[:-1])
    refused(extract_heads, tmp_path, "is 32 x 32 pixels, its label HC_0041 (left).png 31 x 32", problems=1)


def test_a_jpeg_is_an_image_and_no_label_map(heads, extract_heads, tmp_path):
    image = heads / "pictures" / "HC_0041 (left).png"
    Image.open(image).save(image.with_suffix(".jpg"), quality=95)
    image.unlink()
    table = heads / "splits.csv"
    table.write_text(table.read_text().replace("HC_0041 (left).png", "HC_0041 (left)"))
    assert extract_heads().code == 0
    shutil.rmtree(tmp_path / "views")
    label = heads / "maps" / "HC_0041 (left).png"
    Image.open(label).save(label.with_suffix(".jpg"))
    label.unlink()
    refused(extract_heads, tmp_path, "is a JPEG, which is no format for labels", problems=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-5], "is not JSON"),
        (lambda text: text.replace('"classes"', '"clases"'), "classes: field required"),
        (lambda text: text.replace(r"HC_\\d+)", r"HC_\\d+"), "names.pattern: "),
    ],
)
def test_a_wrong_description(heads, extract_heads, tmp_path, change, message):
    path = heads / "dataset.json"
    path.write_text(change(path.read_text()))
    refused(extract_heads, tmp_path, f"dataset.json{': ' if 'not' not in message else ' '}{message}", problems=0)


def test_a_table_that_is_missing_or_lacks_a_column(heads, describe, extract_heads, tmp_path):
    describe(lambda content: content["names"]["table"]["columns"].update(patient="person"))
    refused(extract_heads, tmp_path, "the columns person are missing")
    (heads / "splits.csv").unlink()
    refused(extract_heads, tmp_path, "splits.csv is missing, which names the frames")


@pytest.mark.parametrize("view", ["../left", "a/b", "..", "all_views"])
def test_a_view_that_is_no_name_of_a_folder(heads, describe, extract_heads, tmp_path, view):
    table = heads / "splits.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},window", *(f"{line},{view}" for line in lines[1:])]))
    describe(lambda content: content["names"]["table"]["columns"].update(view="window"))
    describe(lambda content: content["names"].update(pattern=r"(?P<patient>HC_\d+) \((?:left|right)\)"))
    refused(extract_heads, tmp_path, f"the view {view!r} ", problems=10)


def test_names_keep_what_file_systems_allow(heads, describe, extract_heads, tmp_path):
    odd = ["é ü, 100%s", "a'b\"c", "x;y=z&$HOME$", "-rf", "名前 [1]", "tab_r2", "end_3"]
    names = sorted(path.name for path in (heads / "pictures").iterdir())
    for old, new in zip(names, odd, strict=False):
        for kind in ("pictures", "maps"):
            (heads / kind / old).rename(heads / kind / f"{new}.png")
    for name in names[len(odd) :]:
        for kind in ("pictures", "maps"):
            (heads / kind / name).unlink()
    describe(lambda content: content.update(names={"pattern": "(?P<patient>.+)"}))
    assert extract_heads().code == 0
    folder = tmp_path / "views" / "all_views"
    assert set(read_metadata(folder)) == set(odd)
    assert {path.stem for path in (folder / "images").rglob("*.png")} == set(odd)
    assert json.loads((folder / "dataset.json").read_text())["names"]["mark"] == "__"


@pytest.mark.parametrize("name", ["new\nline", "back\\slash", "x" * 201, "ends\x7f"])
def test_names_that_cannot_be_kept_are_refused(heads, describe, extract_heads, tmp_path, name):
    for kind in ("pictures", "maps"):
        (heads / kind / "HC_0040 (left).png").rename(heads / kind / f"{name}.png")
    describe(lambda content: content.update(names={"pattern": "(?s:(?P<patient>.+))"}))
    refused(extract_heads, tmp_path, "in the name" if len(name) < 100 else "longer than 200 bytes")


def test_what_was_there_is_kept_or_replaced_as_a_whole(describe, extract_heads, tmp_path):
    assert extract_heads().code == 0
    again = extract_heads()
    assert again.code == 2 and "already holds left, right, all_views" in again.err
    describe(lambda content: content["names"].update(pattern=r"(?P<patient>HC_\d+) \((?:left|right)\)"))
    assert extract_heads("--overwrite").code == 0
    assert {path.name for path in (tmp_path / "views").iterdir()} == {"all_views"}


def frames_of(patients: int, split: str = "") -> list[OwnFrame]:
    where = Path("x.png")
    return [OwnFrame(f"{p}_{i}", where, where, f"p{p}", "", "", split) for p in range(patients) for i in range(3)]


def test_splits_are_drawn_by_patient_by_share_and_seed():
    shares = {"testing": 0.2, "validation": 0.1}
    frames, drawn = draw_splits(frames_of(20), shares, seed=0)
    split_of = {}
    for frame in frames:
        assert split_of.setdefault(frame.patient, frame.split) == frame.split
    counts = [list(split_of.values()).count(split) for split in ("training", "validation", "testing")]
    assert counts == [14, 2, 4] and len(drawn["testing"]) == 4
    assert draw_splits(frames_of(20), shares, seed=0)[0] == frames
    assert draw_splits(frames_of(20), shares, seed=1)[0] != frames
    assert {frame.split for frame in draw_splits(frames_of(3), dict.fromkeys(shares, 0.0), 0)[0]} == {"training"}
    with pytest.raises(UserError, match="2 patients are too few"):
        draw_splits(frames_of(2), shares, seed=0)


def test_a_split_that_some_are_in_is_left_alone_and_the_other_is_drawn_from_training():
    test = [OwnFrame("t", Path("t"), Path("t"), "t", "", "", "testing")]
    frames, drawn = draw_splits([*frames_of(9, "training"), *test], {"testing": 0.5, "validation": 0.1}, seed=0)
    assert [frame.name for frame in frames if frame.split == "testing"] == ["t"]
    assert list(drawn) == ["validation"] and len(drawn["validation"]) == 1


def test_volumes_that_nothing_could_tell_are_refused(extract_heads, describe, tmp_path):
    volumes = {"views": ["left", "right"], "phases": ["d", "s"], "cavity": 1}
    describe(lambda content: content.update(volumes=volumes))
    refused(extract_heads, tmp_path, "dataset.json: volumes: needs wall or atrium")


def test_more_classes_than_channels_are_resized_by_area(run, tmp_path):
    label = np.repeat(np.repeat(np.arange(9, dtype=np.uint8).reshape(3, 3), 20, 0), 20, 1)
    names = ["background", *(f"part {n}" for n in range(1, 9))]
    content = {"name": "nine", "names": {"pattern": "(?P<patient>.)"}, "classes": [{"name": name} for name in names]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in "abc":
            pixels = label if kind == "labels" else speckle(label * 20.0, np.random.default_rng(0))
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
    where = ("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--dataset", tmp_path / "dataset.json")
    assert run("extract_dataset", *where, "--save_folder_path", tmp_path / "out", "--save_img_size", 30).code == 0
    for path in (tmp_path / "out" / "all_views" / "annotations").rglob("*.png"):
        assert np.array_equal(read_image(path), label[::2, ::2])


def test_camus_beside_heads_is_refused(heads):
    from view_folders import common_description

    assert common_description([heads, heads]).name == HEADS["name"]
    with pytest.raises(UserError, match="not of one data set"):
        common_description([heads, heads / "maps"])
