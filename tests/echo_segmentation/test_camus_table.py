"""The CAMUS table: means and deviations by phase, agreement of volumes, and what a missed structure counts for."""

import csv

import numpy as np
import pytest

from camus_table import camus_markdown, camus_rows, write_camus_table
from patients import summarise_patients
from rows import METRICS
from summary import summarise_cases, values_of

STRUCTURES = ("lv_endo", "lv_epi", "la", "lv_myo")
DIAGONAL = 150.0


def make_rows() -> list[dict]:
    """Three frames at end diastole, two at end systole; the atrium of the last is missed, of the first in no map."""
    rows = []
    for number, phase in enumerate(["ED", "ED", "ED", "ES", "ES"]):
        row = {"stem": f"s{number}", "patient": f"p{number}", "view": "4CH", "phase": phase, "image_quality": ""}
        row |= {"unit": "mm", "grid": "389x549", "diagonal": DIAGONAL}
        for structure in STRUCTURES:
            row |= {f"{structure}_{m}": 0.9 - 0.1 * number if m == "dice" else 2.0 + number for m in METRICS}
            row[f"{structure}_dice_cone"] = 0.95
        rows.append(row)
    rows[0] |= {f"la_{m}": np.nan for m in (*METRICS, "dice_cone")}
    rows[4] |= {f"la_{m}": 0.0 if m == "dice" else np.nan for m in METRICS}
    return rows


def make_patients() -> list[dict]:
    rows = []
    for number, (predicted, reference) in enumerate([(52, 50), (61, 60), (73, 70)]):
        row = {"patient": f"p{number}"}
        for quantity, factor in (("edv_ml", 2), ("esv_ml", 1), ("ef", 1)):
            row |= {f"{quantity}_predicted": factor * predicted, f"{quantity}_reference": factor * reference}
            row[f"{quantity}_reported"] = np.nan
        rows.append(row)
    return rows


def number(rows, phase, item, measure, what="mean"):
    return next(r[what] for r in rows if (r["phase"], r["item"], r["measure"]) == (phase, item, measure))


def test_numbers_by_hand():
    rows = camus_rows(make_rows(), summarise_patients(make_patients()), "none")
    assert len(rows) == 2 * 4 * 3 + 3 * 4
    assert number(rows, "ED", "lv_endo", "dice") == pytest.approx(0.8)
    assert number(rows, "ED", "lv_endo", "dice", "sd") == pytest.approx(0.1)
    assert number(rows, "ES", "lv_myo", "hd") == pytest.approx(5.5)
    assert (number(rows, "ED", "la", "dice", "n"), number(rows, "ED", "la", "dice", "missed")) == (2, 0)
    assert (number(rows, "ES", "la", "hd", "n"), number(rows, "ES", "la", "hd", "missed")) == (1, 1)
    assert number(rows, "", "ef", "bias") == pytest.approx(2)
    assert number(rows, "", "edv_ml", "bias") == pytest.approx(4)
    assert number(rows, "", "ef", "sd") == pytest.approx(1)
    assert number(rows, "", "ef", "mean_absolute") == pytest.approx(2)
    assert number(rows, "", "esv_ml", "correlation") == pytest.approx(210 / 44400**0.5)


def test_a_missed_structure_has_the_diagonal_as_distance_if_that_is_asked_for():
    """Otherwise it counts for the Dice alone. What is absent in both maps counts for nothing."""
    rows = make_rows()
    assert values_of(rows, "la", "hd").tolist() == pytest.approx([np.nan, 3, 4, 5, np.nan], nan_ok=True)
    assert values_of(rows, "la", "hd", "diagonal").tolist() == pytest.approx([np.nan, 3, 4, 5, DIAGONAL], nan_ok=True)
    assert values_of(rows, "la", "dice", "diagonal").tolist() == pytest.approx([np.nan, 0.8, 0.7, 0.6, 0], nan_ok=True)
    found = summarise_cases(rows, "diagonal")["la"]
    assert (found["hd"]["mean"], found["hd"]["n"]) == (pytest.approx((3 + 4 + 5 + DIAGONAL) / 4), 4)
    assert (found["missed"], found["absent"]) == (1, 1)
    assert "given the frame's diagonal" in camus_markdown(rows, {}, "diagonal")


def test_both_files_hold_the_same_numbers(tmp_path):
    said = write_camus_table(tmp_path, make_rows(), summarise_patients(make_patients()), "none")
    text = (tmp_path / "camus_table.md").read_text()
    assert said == text.rstrip()
    lines = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines()
             if line.startswith("|")}  # fmt: skip
    assert list(lines)[0] == "structure" and len(lines["structure"]) == 8
    with open(tmp_path / "camus_table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for structure, title in (("lv_endo", "LV endocardium"), ("lv_myo", "LV myocardium"), ("la", "left atrium")):
        for first, phase in ((0, "ED"), (4, "ES")):
            for column, measure, digits in ((0, "dice", 3), (1, "hd", 2), (2, "msd", 2)):
                mean, sd = (float(number(rows, phase, structure, measure, what)) for what in ("mean", "sd"))
                assert lines[title][first + column] == f"{mean:.{digits}f} +/- {sd:.{digits}f}"
    assert lines["left atrium"][7] == "1 of 2"
    assert lines["EF (%)"] == ["0.997", "+2.00", "1.00", "2.00", "3"]


def test_without_phases_and_patients_there_is_no_table(tmp_path):
    """And none of an earlier evaluation is left."""
    write_camus_table(tmp_path, make_rows(), {}, "none")
    rows = [row | {"phase": ""} for row in make_rows()]
    assert "no CAMUS table" in write_camus_table(tmp_path, rows, {}, "none")
    assert not list(tmp_path.iterdir())
