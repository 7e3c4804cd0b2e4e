"""dataset.json: what it says, and what is told of one that is wrong."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_sets import HEADS, STILLS

from command import UserError
from dataset_description import CAMUS_FILE, camus, parse_description
from names import Naming, appended, choose_mark


def described(content: dict, **changes):
    return parse_description(json.dumps(content | changes).encode(), "dataset.json")


def test_camus_in_the_same_form_is_what_the_published_code_has():
    label = np.array([[0, 1, 2, 3], [0, 1, 2, 3]], np.uint8)
    cone = np.array([[True] * 4, [False] * 4])
    assert camus().to_conditions(label, cone).tolist() == [[2, 1, 3, 4], [0, 0, 0, 0]]
    assert camus().from_conditions(np.arange(5)).tolist() == [0, 1, 0, 2, 3]
    assert camus().num_classes == 4 and camus().num_conditions == 5 and camus().kept_whole() == (1, 2, 3)
    assert {name: camus().plain_labels(name) for name in camus().structures} == {
        "lv_endo": (1,),
        "lv_epi": (1, 2),
        "la": (3,),
        "lv_myo": (2,),
    }
    assert camus() == parse_description(CAMUS_FILE.read_bytes(), "")


def test_a_description_survives_being_written_and_read():
    for content in (HEADS, STILLS, json.loads(CAMUS_FILE.read_text())):
        found = described(content)
        assert parse_description(found.as_json().encode(), "") == found
        travelling = found.travelling("___")
        assert parse_description(travelling.as_json().encode(), "") == travelling
        assert travelling.values == tuple(range(found.num_classes)) and travelling.names.mark == "___"


def test_without_a_sector_conditions_are_the_labels():
    heads = described(HEADS)
    label = np.arange(4, dtype=np.uint8)[None]
    assert heads.to_conditions(label, np.zeros((1, 4), bool)).tolist() == [[0, 1, 2, 3]]
    assert heads.from_conditions(label).tolist() == [[0, 1, 2, 3]] and heads.num_conditions == 4
    assert heads.condition_names == heads.class_names == ("background", "skull", "brain", "cavum")
    assert heads.quiet_conditions == (0,)


@pytest.mark.parametrize(("outside", "inside"), [(0, 1), (0, 2), (2, 0), (1, 2)])
def test_any_two_conditions_may_be_the_sector_and_all_come_back(outside, inside):
    found = described(STILLS, sector={"outside": outside, "inside": inside})
    label = np.array([[0, 1, 0, 1]], np.uint8)
    cone = np.array([[True, True, False, False]])
    conditions = found.to_conditions(label, cone)
    other = ({0, 1, 2} - {outside, inside}).pop()
    assert conditions.tolist() == [[inside, other, outside, outside]]
    assert found.from_conditions(conditions).tolist() == [[0, 1, 0, 0]]
    assert found.condition_names[outside] == "outside" and found.condition_names[other] == "ventricle"
    assert found.condition_colours[inside].tolist() == [90, 90, 90]


def test_values_of_files_become_places_in_what_travels():
    content = STILLS | {"reported": {"lv": [255], "all": [255]}, "keep_whole": [255]}
    volumes = {"views": ["a", "b"], "phases": ["d", "s"], "cavity": 255, "wall": 255}
    found = described(content, volumes=volumes)
    assert found.values == (0, 255) and found.plain_labels("lv") == (1,) and found.kept_whole() == (1,)
    travelling = found.travelling("_")
    assert travelling.structures["lv"].classes == [1] and travelling.keep_whole == [1]
    assert travelling.volumes.cavity == 1 and travelling.kept_whole() == (1,)


def test_a_structure_has_the_title_and_each_class_by_itself_is_reported_unless_others_are_named():
    heads = described(HEADS)
    assert heads.title("cavum") == "cavum septi pellucidi" and heads.title("head") == "head"
    plain = described({name: value for name, value in HEADS.items() if name != "reported"})
    assert {name: plain.plain_labels(name) for name in plain.structures} == {
        "skull": (1,),
        "brain": (2,),
        "cavum": (3,),
    }


WRONG = [
    (("classes", 1, "colour"), "red", "classes.1.colour red"),
    (("classes", 1, "colour"), [1, 2, 300], "classes.1.colour.2 300"),
    (("classes", 1, "nmae"), "x", "classes.1.nmae x: extra"),
    (("classes", 2, "name"), "skull", "classes.2.name: skull stands there twice"),
    (("classes", 2, "value"), 1, "classes.2.value: 1 stands there twice"),
    (("classes", 2, "value"), 256, "classes.2.value 256"),
    (("names", "pattern"), "(?P<patient>.", "names.pattern: (?P<patient>. is no regular expression"),
    (("names", "pattern"), "(?P<person>.+)", "names.pattern: (?P<person>…) is none of patient, view, phase, split"),
    (("names", "pattern"), "(?P<view>.+)", "names: neither a group of the pattern"),
    (("names", "table", "columns"), {"sex": "x"}, "names.table.columns.sex"),
    (("names", "table", "columns"), {"split": "set"}, "names.table.columns: without file"),
    (("names", "table", "path"), "../x.csv", "names.table.path: ../x.csv does not lie in the folder"),
    (("names", "table", "path"), "/etc/x.csv", "names.table.path: /etc/x.csv does not lie in the folder"),
    (("reported", "head"), [1, 7], "reported.head: 7 is the value of no class (those are 0, 1, 2, 3)"),
    (("reported", "head"), [], "reported.head.classes"),
    (("keep_whole",), [0], "keep_whole: 0 is the background"),
    (("keep_whole",), [9], "keep_whole: 9 is the value of no class"),
    (("sector",), {"outside": 0, "inside": 0}, "sector.inside: 0 is the outside, too"),
    (("sector",), {"outside": 0, "inside": 5}, "sector.inside: 5"),
    (("sector",), {"inside": 1, "colours": [[0, 0, 0]]}, "sector.colours: 1 of them, and 5 conditions"),
    (("spacing_mm",), [0, 1], "spacing_mm.0 0"),
    (("spacing_mm",), [1], "spacing_mm"),
    (("volumes",), {"views": ["a"], "phases": ["d", "s"], "cavity": 1}, "volumes.views"),
    (("volumes",), {"views": ["a", "a"], "phases": ["d", "s"], "cavity": 1}, "volumes.views: both are the same"),
    (("volumes",), {"views": ["a", "b"], "phases": ["d", "s"], "cavity": 8}, "volumes.cavity: 8"),
    (("clases",), [], "clases []: extra"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_what_is_wrong_is_told_by_its_key(place, value, message):
    content = copy.deepcopy(HEADS)
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(UserError) as caught:
        described(content)
    assert str(caught.value).startswith(f"dataset.json: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "nan", '{"name": "x"}', "[" * 10**5, '{"name": "x", "classes": []}'])
def test_what_is_no_description_is_told_in_one_line(text):
    with pytest.raises(UserError, match=r"^dataset\.json") as caught:
        parse_description(text.encode(), "dataset.json")
    assert "\n" not in str(caught.value)


@given(st.lists(st.text("ab_r01", min_size=1, max_size=6), min_size=1, max_size=8), st.none() | st.integers(0, 12),
       st.integers(0, 12))  # fmt: skip
def test_what_is_appended_can_be_told_from_any_name(names, repeat, round_):
    mark = choose_mark(names)
    everything = {}
    for name in names:
        whole = name + ("" if repeat is None else f"{mark}{repeat}") + (f"{mark}r{round_}" if round_ else "")
        found = appended(mark).fullmatch(whole)
        assert found["source"] == name
        assert found["repeat"] == (None if repeat is None else str(repeat))
        assert found["round"] == (str(round_) if round_ else None)
        assert everything.setdefault(whole, name) == name


def test_names_are_found_by_file_with_or_without_ending_or_by_patient():
    by_file = described(HEADS)
    naming = Naming(by_file, {"HC_0042 (left).png": {"picture": "HC_0042 (left).png", "set": "train"}})
    found = naming.fields("HC_0042 (left)", "HC_0042 (left).png")
    assert found == {"patient": "HC_0042", "view": "left", "phase": "", "split": "train"}
    assert naming.fields("HC_0042 (right)", "HC_0042 (right).png") is None  # not in the table
    assert naming.fields("HC_0042", "HC_0042.png") is None  # the pattern does not match
    names = HEADS["names"] | {"table": {"path": "x.csv", "columns": {"patient": "who", "split": "set"}}}
    by_patient = Naming(described(HEADS, names=names), {"HC_0042": {"who": "HC_0042", "set": "val"}})
    assert by_patient.fields("HC_0042 (right)")["split"] == "val"


def test_descriptions_are_equal_by_their_keys_whatever_was_worked_out():
    first, second = described(HEADS), described(HEADS)
    assert first.colours.shape == second.colours.shape == (4, 3)
    assert first == second and first != described(HEADS, name="Other heads") and first != camus()


def test_volumes_of_hearts_with_other_names_and_numbers_are_those_of_camus():
    from types import SimpleNamespace

    from ejection_fraction import as_camus, measure_long_axis
    from patients import measure_patients

    rows, columns = np.mgrid[:80, :60]
    axes, cases = ({"camus": [], "own": []} for _ in range(2))
    heart = described(
        HEADS,
        classes=[{"name": name} for name in ("background", "atrium", "other", "wall", "cavity")],
        reported=None,
        keep_whole=None,
        volumes={"views": ["a2c", "a4c"], "phases": ["dia", "sys"], "cavity": 4, "wall": 3, "atrium": 1},
    )
    mine = np.array([0, 4, 3, 1], np.uint8)  # of CAMUS' numbers
    for view, own_view, width in (("2CH", "a2c", 14), ("4CH", "a4c", 18)):
        for phase, own_phase, length in (("ED", "dia", 50), ("ES", "sys", 40)):
            label = np.where(rows < 70, 2, 3).astype(np.uint8)
            label[((columns - 30) / width) ** 2 + ((rows - 70) / length) ** 2 < 1] = 1
            label[rows >= 70] = 3
            for kind, one in (("camus", label), ("own", as_camus(mine[label], heart.volumes, heart.values))):
                axes[kind].append(dict.fromkeys(("predicted", "reference"), measure_long_axis(one, (1.0, 1.0))))
                names = (view, phase) if kind == "camus" else (own_view, own_phase)
                cases[kind].append(
                    SimpleNamespace(stem="p", patient="p", view=names[0], phase=names[1], clinical=(None,) * 3)
                )
    camus_numbers = measure_patients(cases["camus"], axes["camus"])
    own = measure_patients(cases["own"], axes["own"], heart.volumes)
    assert str(own) == str(camus_numbers)  # as text, since what nobody reported is NaN
    assert len(own) == 1 and 5 < own[0]["ef_predicted"] < 95
    assert measure_patients(cases["own"], axes["own"]) == []  # their views are not CAMUS'
