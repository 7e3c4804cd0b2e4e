"""Lists, tables, Info files and the names of files, as people and spreadsheets leave them."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reader_forms import save

from camus import find_release, read_info, write_subgroups
from cases import find_cases
from command import UserError
from config import Settings
from guided_diffusion.data.arrays import load_label
from guided_diffusion.data.datasets import find_pairs
from schema import parse_csv
from text_files import read_list
from view_folders import list_pictures, naming_of

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
ROWS = [{"stem": "patient0001_2CH_ED_testing", "spacing_depth_mm": "0.154", "image_quality": "Good"}]
PATIENTS = {"training": ["patient0003", "patient0001"], "validation": ["patient0002"], "testing": ["patient0004"]}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_as_spreadsheets_write_them(encoding, separator, table):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=separator)
    writer.writeheader()
    comma = separator != ","  # where the separator is none, spreadsheets of many countries write 0,154
    writer.writerows({k: v.replace(".", ",") if comma else v for k, v in row.items()} for row in ROWS)
    assert parse_csv(text.getvalue().encode(encoding), "a.csv") == ROWS
    table("Tables", encoding, {",": "commas", ";": "semicolons", "\t": "tabs"}[separator], "read")


@pytest.mark.parametrize("between", ["\n", "\r\n", ",", ";\n", "\t", '"\n"'])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lists_of_patients(tmp_path, encoding, between):
    (tmp_path / "database_nifti").mkdir()
    write_subgroups(tmp_path, PATIENTS)
    quote = '"' if '"' in between else ""
    for split, names in PATIENTS.items():
        content = quote + between.join(names) + quote + "\n"
        (tmp_path / f"database_split/subgroup_{split}.txt").write_bytes(content.encode(encoding))
    release = find_release(tmp_path)
    assert release.problems == []
    assert sorted(release.people) == sorted((split, name) for split, names in PATIENTS.items() for name in names)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_text_or_refused_in_one_line(data):
    try:
        rows = parse_csv(data, "a.csv")
    except UserError as error:
        assert str(error).startswith("a.csv") and "\n" not in str(error)
    else:
        assert all(isinstance(row, dict) for row in rows)


@pytest.mark.parametrize(
    ("text", "ef", "warnings"),
    [
        ("LVef: 53.3 %", "53.3", 0),
        ("LVef: 53,3", "53.3", 0),
        ("LVef: 53", "53", 0),
        ("LVef: 53.3%", "53.3", 0),
        ("LVef: N/A", "", 1),
        ("LVef: nan", "", 1),
        ("LVef: -3", "", 1),
        ("LVef: 0", "", 1),
        ("LVef: 1e400", "", 1),
        ("LVef: 100", "100", 0),
        ("LVef: 100.1", "", 1),
        ("LVef:", "", 0),
        ("", "", 0),
    ],
)
def test_numbers_of_an_info_file(tmp_path, text, ef, warnings):
    path = tmp_path / "Info_2CH.cfg"
    for encoding in ENCODINGS:
        path.write_bytes(f"ImageQuality: Good\n{text}\nLVedv: 94,5 ml\n".encode(encoding))
        values, told = read_info(path)
        assert values == {"image_quality": "Good", "ef": ef, "edv_ml": "94.5", "esv_ml": ""}
        assert len(told) == warnings and all(str(path) in line for line in told)
    path.write_bytes(b"\x00\x01\x02\x89PNG")
    values, told = read_info(path)
    assert set(values.values()) == {""} and len(told) == 1


def test_the_folder_above_or_below_a_release_is_understood_and_several_are_not(tmp_path):
    release = tmp_path / "data" / "CAMUS_public"
    (release / "database_nifti/patient0001").mkdir(parents=True)
    write_subgroups(release, PATIENTS)
    for given_folder in (release, release.parent, release / "database_nifti", release / "database_split"):
        assert find_release(given_folder).root.resolve() == release.resolve()
    assert find_release(release / "database_nifti/patient0001").root.resolve() == release.resolve()
    shutil.copytree(release, release.with_name("other"))
    with pytest.raises(UserError, match="several CAMUS releases: give one of CAMUS_public, other"):
        find_release(release.parent)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="is no CAMUS release"):
        find_release(tmp_path / "nothing")


def test_files_of_a_release_are_found_under_every_spelling(tmp_path):
    (tmp_path / "database_nifti/patient0001").mkdir(parents=True)
    write_subgroups(tmp_path, PATIENTS)
    folder = tmp_path / "database_nifti/patient0001"
    for number, name in enumerate(("patient0001_2CH_ED.NII.GZ", "patient0001_2CH_ED.nii", "patient0001_2CH_ED.nii.gz")):
        (folder / name).write_bytes(b"x")
        frame = find_release(tmp_path).frame("training", "patient0001", "2CH_ED")
        assert frame.image == folder / ("patient0001_2CH_ED.nii.gz" if number == 2 else "patient0001_2CH_ED.NII.GZ")


STEMS = [f"patient000{n}_2CH_ED_training" for n in range(1, 5)]
SPELLINGS = (".png", ".PNG", ".Png", ".bmp")


def fill(folder: Path) -> None:
    """Four label maps, each under another spelling of its suffix, and three files that are no pictures."""
    folder.mkdir(parents=True)
    for stem, suffix in zip(STEMS, SPELLINGS, strict=True):
        (folder / f"{stem}{suffix}").write_bytes(save(np.full((32, 32), 1, np.uint8)))
    for name in ("notes.txt", "Thumbs.db", "patient0009_2CH_ED_training.png.bak"):
        (folder / name).write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(b"")


def test_every_case_of_a_suffix_is_read_and_what_is_passed_over_is_counted_and_named(tmp_path, capsys):
    for kind in ("images", "annotations", "sector_annotations"):
        fill(tmp_path / kind / "training")
    told = []
    settings = Settings(datadir=str(tmp_path), img_size=32)
    pairs = find_pairs(settings, ["training"], warn=told.append)
    assert [pair.stem for pair in pairs] == STEMS
    assert all((load_label(pair, settings) == 1).all() for pair in pairs)
    assert len(told) == 2 and all("3 files passed over" in line and "notes.txt" in line for line in told)
    assert [case.stem for case in find_cases(str(tmp_path), "training")] == STEMS
    assert capsys.readouterr().err.count("3 files passed over") == 2
    problems = []
    found = list_pictures(tmp_path / "images/training", naming_of(tmp_path), problems)
    assert list(map(str, found)) == STEMS and not problems
    assert "3 files passed over, no picture by name: Thumbs.db, notes.txt" in capsys.readouterr().err


def test_two_pictures_of_one_name_are_refused(tmp_path):
    for kind in ("images", "annotations", "sector_annotations"):
        fill(tmp_path / kind / "training")
        Image.new("L", (32, 32)).save(tmp_path / kind / "training" / f"{STEMS[0]}.tif")
    problems: list[str] = []
    list_pictures(tmp_path / "images/training", naming_of(tmp_path), problems)
    assert len(problems) == 1 and "another file has this name" in problems[0]
    with pytest.raises(UserError, match="with different endings"):
        find_cases(str(tmp_path), "training")
    with pytest.raises(UserError, match="the same name as"):
        find_pairs(Settings(datadir=str(tmp_path)), ["training"])


def test_lists_are_split_at_whatever_stands_between(tmp_path):
    (tmp_path / "a.txt").write_text("a, b;c\n'd'\t\"e\"\r\n")
    assert read_list(tmp_path / "a.txt") == ["a", "b", "c", "d", "e"]
