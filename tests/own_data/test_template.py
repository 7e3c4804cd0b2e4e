"""What --write_template guesses of a folder: who is a patient, which views, which values."""

import json
import re

import pytest

from template import guess_pattern

VIEWS = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")


@pytest.mark.parametrize(
    ("names", "patients", "views"),
    [
        ([f"patient{p:04d}_{view}" for p in range(9) for view in VIEWS], 9, set(VIEWS)),
        ([f"p{p} ({view}) - {frame}" for p in range(9) for view in ("x", "y") for frame in range(3)], 9, {"x", "y"}),
        ([f"p{p}_{view}_{frame}" for p in range(9) for view in ("x", "y") for frame in range(3)], 9, {"x", "y"}),
        ([f"{p}_{frame}" for p in range(1, 7) for frame in (0, 1)], 6, {None}),
        ([f"case_{p}" for p in range(9)], 9, {None}),
        ([f"case_{p}_{side}" for p in range(9) for side in ("left", "right")], 9, {"left", "right"}),
        ([f"p{p:03d}_{view}_ED" for p in range(9) for view in ("2CH", "4CH")], 9, {"2CH", "4CH"}),
        ([f"p{p:03d}-{view} (ED)_gt" for p in range(9) for view in ("2CH", "4CH")], 9, {"2CH", "4CH"}),
        ([f"p{p:03d}_ED_{frame}" for p in range(9) for frame in range(3)], 9, {None}),
        ([f"p{p:03d}_{frame}_img" for p in range(9) for frame in range(3)], 9, {None}),
        ([f"p{p:03d}_2CH_{frame}_img" for p in range(9) for frame in range(3)], 9, {None}),
        ([f"case_{p:03d}_0000" for p in range(9)], 9, {None}),
        ([f"{view}_patient{p:03d}" for p in range(9) for view in ("A2C", "A4C")], 9, {"A2C", "A4C"}),
        ([f"A4C-p{p}.{frame}" for p in range(9) for frame in range(3)], 9, {None}),
        (
            [f"us_{view}_p{p}_{frame}" for p in range(9) for view in ("A2C", "A4C") for frame in (1, 2)],
            9,
            {"A2C", "A4C"},
        ),
        ([f"p{p:03d}_frame{frame}" for p in range(9) for frame in range(3)], 9, {None}),
        ([f"p{p:03d}-T{frame}_mask" for p in range(9) for frame in range(3)], 9, {None}),
        ([f"p{p:03d}_visit{v}_{view}" for p in range(9) for v in (1, 2) for view in ("A2C", "A4C")], 9, {"A2C", "A4C"}),
        ([f"p{p:03d}_2021-0{m}-17" for p in range(9) for m in (1, 2)], 9, {None}),
        ([f"p{p:03d}_2021.0{m}.17_{view}" for p in range(9) for m in (1, 2) for view in ("x", "y")], 9, {"x", "y"}),
        (
            [f"p{p:03d}_20210{m}17_{view}_{f}" for p in range(9) for m in (1, 2) for view in "xy" for f in (0, 1)],
            9,
            {"x", "y"},
        ),
        ([f"site{p % 3}_patient{p:03d}_{view}" for p in range(9) for view in ("x", "y")], 9, {"x", "y"}),
        ([f"v{p}" for p in range(9)], 9, {None}),
    ],
)
def test_a_guessed_pattern_does_not_split_a_person(names, patients, views):
    pattern, told = guess_pattern(names)
    found = [re.fullmatch(pattern, name).groupdict() for name in names]
    assert len({one["patient"] for one in found}) == patients, told
    assert {one.get("view") for one in found} == views
    assert all(view in told for view in views if view)


def test_a_view_before_the_patient_and_a_phase_behind_are_both_found():
    names = [f"{view}_patient{p:03d}_{phase}" for p in range(9) for view in ("A2C", "A4C") for phase in ("ED", "ES")]
    pattern, told = guess_pattern(names)
    found = [re.fullmatch(pattern, name).groupdict() for name in names]
    assert {one["patient"] for one in found} == {f"patient{p:03d}" for p in range(9)}, told
    assert {(one["view"], one["phase"]) for one in found} == {(v, p) for v in ("A2C", "A4C") for p in ("ED", "ES")}


def test_a_template_of_stills_finds_sector_ending_and_values(run, stills, tmp_path):
    where = ("--images", stills / "frames", "--labels", stills / "frames", "--dataset", tmp_path / "proposed.json")
    assert run("extract_dataset", *where, "--write_template").code == 0
    content = json.loads((tmp_path / "proposed.json").read_text())
    assert content["names"]["label_ending"] == "_mask" and content["sector"] == {"outside": 0, "inside": 1}
    assert [one["value"] for one in content["classes"]] == [0, 255]


def test_a_template_says_what_it_guessed_and_can_be_used(run, heads, tmp_path):
    where = ("--images", heads / "pictures", "--labels", heads / "maps")
    path = tmp_path / "proposed.json"
    told = run("extract_dataset", *where, "--dataset", path, "--write_template")
    assert told.code == 0, told.err
    assert "5 patients (as 'HC_0040'), in the views left, right" in told.out and "sector: none" in told.out
    content = json.loads(path.read_text())
    assert content["names"] == {"pattern": r"(?P<patient>.+?) \((?P<view>left|right)\)"}
    assert [one["value"] for one in content["classes"]] == [0, 1, 2, 3]
    done = run("extract_dataset", *where, "--dataset", path, "--save_folder_path", tmp_path / "out")
    assert done.code == 0 and "in 2 views (left, right)" in done.out and "drawn for it" in done.out
    assert told.err.count("warning: the patients are guessed from the names") == 1
    again = run("extract_dataset", *where, "--dataset", path, "--write_template")
    assert again.code == 2 and "is there already" in again.err
    nowhere = run("extract_dataset", *where, "--dataset", tmp_path / "none" / "x.json", "--write_template")
    assert nowhere.code == 2 and "none is not a folder" in nowhere.err
