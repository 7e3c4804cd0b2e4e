"""What --write_template guesses of a folder: who is a patient, which views, which values."""

import json
import re

import pytest

from template import guess_pattern

P, VIEWS, PHASES = range(1, 10), ("A2C", "A4C"), ("ED", "ES")
FOUR = ("2CH_ED", "2CH_ES", "4CH_ED", "4CH_ES")
VIEW, SIDES = {"view": set(VIEWS)}, {"view": {"left", "right"}}


def day(person: int, visit: int) -> str:
    """A date of a visit, as a compact word: hardly anybody shares one."""
    return f"20{18 + person % 4}{1 + (5 * person + visit) % 12:02d}{1 + (7 * person + 3 * visit) % 28:02d}"


# (person, name) of each image, and what is found beside the patients.
NAMES = {
    "views of CAMUS": ([(p, f"patient{p:04d}_{v}") for p in P for v in FOUR], {"view": set(FOUR)}),
    "view in brackets, frame": ([(p, f"p{p} ({v}) - {f}") for p in P for v in VIEWS for f in (0, 1, 2)], VIEW),
    "view, frame": ([(p, f"p{p}_{v}_{f}") for p in P for v in VIEWS for f in (0, 1, 2)], VIEW),
    "numbers alone": ([(p, f"{p}_{f}") for p in P for f in (0, 1)], {}),
    "numbers alone, many frames": ([(p, f"{p}_{f}") for p in P for f in range(40)], {}),
    "one image each": ([(p, f"case_{p}") for p in P], {}),
    "one image each, a letter": ([(p, f"v{p}") for p in P], {}),
    "sides": ([(p, f"case_{p}_{s}") for p in P for s in ("left", "right")], SIDES),
    "the same phase": ([(p, f"p{p:03d}_{v}_ED") for p in P for v in VIEWS], VIEW),
    "the same brackets and ending": ([(p, f"p{p:03d}-{v} (ED)_gt") for p in P for v in VIEWS], VIEW),
    "the same phase, frame": ([(p, f"p{p:03d}_ED_{f}") for p in P for f in (0, 1, 2)], {}),
    "frame and the same ending": ([(p, f"p{p:03d}_{f}_img") for p in P for f in (0, 1, 2)], {}),
    "the same view and ending, frame": ([(p, f"p{p:03d}_2CH_{f}_img") for p in P for f in (0, 1, 2)], {}),
    "nnU-Net": ([(p, f"case_{p:03d}_0000") for p in P], {}),
    "view first": ([(p, f"{v}_patient{p:03d}") for p in P for v in VIEWS], VIEW),
    "view first, number": ([(p, f"{v}_{p:03d}") for p in P for v in VIEWS], VIEW),
    "view and phase first, number": (
        [(p, f"{v}_{f}_{p:03d}") for p in P for v in VIEWS for f in PHASES],
        {"view": {"A2C_ED", "A2C_ES", "A4C_ED", "A4C_ES"}},
    ),
    "view first, image of a patient": ([(p, f"{v}_image{p:03d}") for p in P for v in VIEWS], VIEW),
    "view first, subject": ([(p, f"{v}_s{p:02d}") for p in P for v in VIEWS], VIEW),
    "own view first, scan of a patient": (
        [(p, f"{v}_scan{p:03d}") for p in P for v in ("long", "short")],
        {"view": {"long", "short"}},
    ),
    "the same view first, frame": ([(p, f"A4C-p{p}.{f}") for p in P for f in (0, 1, 2)], {}),
    "prefix, view first, frame": ([(p, f"us_{v}_p{p}_{f}") for p in P for v in VIEWS for f in (1, 2)], VIEW),
    "view first, phase last": (
        [(p, f"{v}_patient{p:03d}_{f}") for p in P for v in VIEWS for f in PHASES],
        VIEW | {"phase": set(PHASES)},
    ),
    "view first, number, phase last": (
        [(p, f"{v}_{p:03d}_{f}") for p in P for v in VIEWS for f in PHASES],
        VIEW | {"phase": set(PHASES)},
    ),
    "view first, number, phase, frame": (
        [(p, f"{v}_{p:03d}_{f}_{i}") for p in P for v in VIEWS for f in PHASES for i in (0, 1)],
        VIEW | {"phase": set(PHASES)},
    ),
    "frames by a word": ([(p, f"p{p:03d}_frame{f}") for p in P for f in range(30)], {}),
    "frames by a letter": ([(p, f"p{p:03d}-T{f}_mask") for p in P for f in (0, 1, 2)], {}),
    "names, frames by a word": ([(n, f"{n}_frame{f}") for n in ("anna", "bert", "carl") for f in range(4)], {}),
    "visit, view": ([(p, f"p{p:03d}_visit{i}_{v}") for p in P for i in (1, 2) for v in VIEWS], VIEW),
    "visit, frame": ([(p, f"p{p:03d}_visit{i}_frame{f}") for p in P for i in (1, 2) for f in (1, 2)], {}),
    "visit, number": ([(p, f"p{p:03d}_visit{i}_{f}") for p in P for i in (1, 2) for f in (11, 12)], {}),
    "view, visit, phase": (
        [(p, f"p{p:03d}_{v}_visit{i}_{f}") for p in P for v in VIEWS for i in (1, 2) for f in PHASES],
        VIEW | {"phase": set(PHASES)},
    ),
    "view, visit": ([(p, f"p{p:03d}_{v}_visit{i}") for p in P for i in (1, 2) for v in VIEWS], VIEW),
    "date": ([(p, f"p{p:03d}_2021-0{m}-17") for p in P for m in (1, 2)], {}),
    "number, date": ([(p, f"patient_{p:03d}_2021-0{m}-17") for p in P for m in (1, 2)], {}),
    "numbers, date": ([(p, f"12_{p:03d}_2021.0{m}.17") for p in P for m in (1, 2)], {}),
    "date, view": ([(p, f"p{p}_2021.0{m}.17_{v}") for p in P for m in (1, 2) for v in VIEWS], VIEW),
    "date, view, frame": (
        [(p, f"p{p}_20210{m}17_{v}_{f}") for p in P for m in (1, 2) for v in VIEWS for f in (0, 1)],
        VIEW,
    ),
    "date, frame": ([(p, f"p{p}_20210{m}17_{f}") for p in P for m in (1, 2) for f in (0, 1)], {}),
    "view, date, frame": (
        [(p, f"p{p}_{v}_20210{m}17_{f}") for p in P for v in VIEWS for m in (1, 2) for f in (0, 1)],
        VIEW,
    ),
    "date and visit": ([(p, f"p{p}_2021-03-1{i}_visit{i}") for p in P for i in (1, 2)], {}),
    "one frame each, by a word": ([(p, f"p{p}_frame{7 * p}") for p in P], {}),
    "four patients, the same view, frame": ([(p, f"p{p}_2CH_{f}_img") for p in P[:4] for f in (0, 1, 2)], {}),
    "four patients, the same view, image": ([(p, f"p{p}_2CH_img{f}") for p in P[:4] for f in (0, 1, 2)], {}),
    "four patients of two sites": ([(p, f"site{'AB'[p % 2]}_p{p}_{f}") for p in P[:4] for f in (0, 1)], {}),
    "numbered views": ([(p, f"p{p}_view{v}") for p in P for v in (1, 2)], {}),
    "view first, names": ([(n, f"{v}_{n}") for n in ("anna", "bert", "carl") for v in VIEWS], VIEW),
    "view, clip, phase": (
        [(p, f"p{p}_{v}_clip{i}_{f}") for p in P for v in VIEWS for i in (1, 2) for f in PHASES],
        VIEW | {"phase": set(PHASES)},
    ),
    "the same video, frame": ([(p, f"study{p}_video000_frame{f}") for p in P for f in (0, 1)], {}),
    "counted and other words": (
        [(p, f"p{p:02d}_{w}") for p in P for w in ("T1", "T2", "FLAIR")],
        {"view": {"T1", "T2", "FLAIR"}},
    ),
    "site, patient": ([(p, f"site{p % 3}_patient{p:03d}_{v}") for p in P for v in VIEWS], VIEW),
    "site, number": ([(p, f"site{p % 3}_{p:03d}_{v}") for p in P for v in VIEWS], VIEW),
    "site, exam of a patient": ([(p, f"site{p % 3}_exam{p:03d}_{v}") for p in P for v in VIEWS], VIEW),
    "group, number": ([(p, f"{'MF'[p % 2]}_{p:03d}_{v}") for p in P for v in VIEWS], VIEW),
    "dates of each": ([(p, f"p{p:02d}_{day(p, i)}_{v}") for p in P for i in (0, 1) for v in VIEWS], VIEW),
    "dates of each alone": ([(p, f"p{p:02d}_{day(p, i)}") for p in P for i in (0, 1)], {}),
    "date first, visits": ([(p, f"{day(p, i)}_p{p}_{v}") for p in P for i in (0, 1) for v in VIEWS], VIEW),
    "visit by a letter, view": ([(p, f"p{p:02d}_v{i}_{v}") for p in P for i in (1, 2) for v in VIEWS], VIEW),
    "beat and frame by letters": ([(p, f"p{p:02d}_b{i}_f{j}") for p in P for i in (1, 2) for j in (1, 2)], {}),
    "month, view": ([(p, f"{p:03d}_M{m}_{v}") for p in P for m in (0, 6, 12) for v in VIEWS], VIEW),
    "numbered chamber": ([(p, f"Patient{p}_LV{i}") for p in P for i in (1, 2)], {}),
    "numbered chamber, two patients": ([(p, f"p{p}_LV{i}") for p in P[:2] for i in (1, 2)], {}),
    "year, number": ([(p, f"20{10 + p % 2}_{p:02d}_{v}") for p in P for v in VIEWS], VIEW),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_guessed_pattern_neither_splits_nor_joins_people(case):
    images, beside = NAMES[case]
    pattern, told = guess_pattern([name for _, name in images])
    found = [re.fullmatch(pattern, name).groupdict() for _, name in images]
    pairs = {(person, one["patient"]) for (person, _), one in zip(images, found, strict=True)}
    people, patients = {person for person, _ in pairs}, {patient for _, patient in pairs}
    assert len(pairs) == len(people) == len(patients), told
    groups = {group: {one[group] for one in found} for group in ("view", "phase") if group in found[0]}
    assert groups == beside
    assert all(word in told for words in beside.values() for word in words)
    assert len(people) == len(images) or f"{len(people)} patients" in told


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
