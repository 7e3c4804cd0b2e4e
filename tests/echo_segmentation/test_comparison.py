"""Two runs in pairs: by frame, then by patient; p-values and intervals against exact values and simulation."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.stats import binom

from command import UserError
from comparison import Difference, compare, holm, paired_differences, paired_p_value
from patients import QUANTITIES
from rows import METRICS, read_rows, write_rows

STRUCTURES = ("lv_endo", "lv_epi", "la", "lv_myo")


def make_rows(values: dict[str, np.ndarray], patients, **known) -> list[dict]:
    """Rows of as many cases as patients; `values` by column, all others 0.9 for Dice and 5 for distances."""
    rows = []
    for number, patient in enumerate(patients):
        row = dict.fromkeys(("view", "phase", "image_quality"), "")
        row |= {"stem": f"s{number:03d}", "patient": patient, "unit": "mm@128", "grid": "128x128", "diagonal": 180.0}
        for structure in STRUCTURES:
            row |= {f"{structure}_{metric}": 0.9 if metric == "dice" else 5.0 for metric in METRICS}
        row |= {name: column[number] for name, column in values.items()}
        rows.append(row | {name: column[number] for name, column in known.items()})
    return rows


def write(folder, rows, patients=None):
    folder.mkdir()
    write_rows(folder / "metrics.csv", rows)
    if patients:
        write_rows(folder / "ejection_fraction.csv", patients)
    return folder


def line_of(text: str, title: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(title)).removeprefix(title).split()


def test_one_millimetre_better_in_every_frame_is_one_millimetre(tmp_path):
    """B is 1 mm better wherever both have a distance. A missed the atrium in the worst frames, B found it there: the
    means over all that each has would say that B is worse.
    """
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{n:02d}" for n in range(20)], 4)
    first = rng.uniform(4, 8, 80)
    second = first - 1
    first[::4], second[::4] = np.nan, 40
    dice = np.where(np.isnan(first), 0.0, 0.9)
    a = make_rows({"la_hd": first, "la_dice": dice}, patients)
    b = make_rows({"la_hd": second}, patients)
    assert np.nanmean(second) - np.nanmean(first) > 5
    text = compare(write(tmp_path / "a", a), write(tmp_path / "b", b))
    mean_a, mean_b, difference, low, _, high, p, adjusted, frames, count = line_of(text, "la hd mm@128")
    assert (difference, low, high, frames, count) == ("-1.0000", "-1.0000", "-1.0000", "60", "20")
    assert float(mean_a) - float(mean_b) == pytest.approx(1, abs=2e-4)
    assert float(p) < 0.001 and float(adjusted) < 0.01
    assert line_of(text, "  la ") == ["20", "0"]
    assert line_of(text, "  lv_endo") == ["0", "0"]


def test_frames_of_a_patient_count_once(tmp_path):
    """Six patients, each better by another amount: p = 2 / 2^6 exactly, whatever the number of frames."""
    first = np.array([0.80, 0.81, 0.82, 0.83, 0.84, 0.85, 0.85])
    gain = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.06])
    a, b = (make_rows({"lv_endo_dice": dice}, list("abcdeff")) for dice in (first, first + gain))
    found = line_of(compare(write(tmp_path / "a", a), write(tmp_path / "b", b)), "lv_endo dice")
    assert found[:3] == ["0.8250", "0.8600", "+0.0350"]
    assert found[6:] == ["0.031", "0.5", "7", "6"]


def test_volumes_and_ejection_fraction_are_compared_by_their_errors(tmp_path):
    """B's ejection fraction is 2 points nearer the reference for each of 8 patients, above or below it."""
    names = [f"p{n}" for n in range(8)]
    side = np.array([1, -1] * 4)
    folders = []
    for run, error in (("a", 5), ("b", 3)):
        patients = []
        for n, name in enumerate(names):
            row = {"patient": name}
            for quantity, reference in (("edv_ml", 120.0), ("esv_ml", 50.0), ("ef", 58.0)):
                off = (error + n / 10) * side[n] if quantity == "ef" else 1.0
                row |= {f"{quantity}_predicted": reference + off, f"{quantity}_reference": reference}
            patients.append(row | {"ef_reported": float("nan")})
        folders.append(write(tmp_path / run, make_rows({}, names), patients))
    text = compare(*folders)
    assert line_of(text, "EF |error| %")[:7] == ["5.3500", "3.3500", "-2.0000", "-2.0000", "..", "-2.0000", "0.0078"]
    assert line_of(text, "EDV |error| ml")[:3] == ["1.0000", "1.0000", "+0.0000"]


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling: 0.02, 0.03, 0.06, 0.06."""
    assert holm([0.01, 0.04, np.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_false_alarms_under_the_null_are_one_in_twenty_tables():
    """200 pairs of runs that differ by chance alone: 50 patients with 4 frames, all metrics of a frame alike to some
    degree. Of the tables, at most 5 % hold an adjusted p below 0.05; unadjusted, far more hold one.
    """
    rng = np.random.default_rng(0)
    tables, patients = 200, np.repeat([f"p{n:02d}" for n in range(50)], 4)
    names = [f"{structure}_{metric}" for structure in STRUCTURES for metric in METRICS]
    alarms, unadjusted = 0, 0
    base = make_rows({}, patients)
    for _ in range(tables):
        shared, own = rng.normal(size=(2, 200, 1)), rng.normal(size=(2, 200, len(names)))
        values = shared + 2 * own + np.repeat(rng.normal(size=(1, 50, 1)), 4, axis=1)
        runs = [[row | dict(zip(names, v, strict=True)) for row, v in zip(base, run, strict=True)] for run in values]
        found = paired_differences(*runs)
        alarms += min(difference.adjusted_p for difference in found) < 0.05
        unadjusted += min(difference.p for difference in found) < 0.05
    assert alarms <= binom.ppf(0.999, tables, 0.05)
    assert unadjusted > 0.2 * tables


def test_intervals_cover_the_true_difference():
    """95 % intervals of 200 samples of 50 patients, skewed as differences of distances are: 0.89 to 0.98 cover."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = Difference("", np.zeros(50), rng.gamma(2, 1, 50) - 1, 50).interval()
        covered += low <= 1 <= high
    assert 0.89 <= covered / 200 <= 0.98


def test_equal_runs_have_no_p_below_one(trained):
    assert paired_p_value(np.ones(4), np.ones(4)) == 1
    found = line_of(compare(trained, trained), "lv_endo dice")
    assert found[2:] == ["+0.0000", "+0.0000", "..", "+0.0000", "1", "1", "8", "2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": ["mm"] * 3}, "is in mm@128, .* is in|mm: evaluate both"),
        ({"unit": ["mm@256"] * 3, "grid": ["256x256"] * 3}, "in mm@256: evaluate both at one --img-size"),
        ({"grid": ["128x128", "128x128", "389x549"]}, "1 cases, s002 for one, have other grids"),
        ({"stem": ["x", "y", "z"]}, "no case in common"),
        ({"diagonal": [320.0] * 3}, "have other sizes of a pixel, so distances would not compare"),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path, change, message):
    a, b = (write(tmp_path / run, make_rows({}, "abc", **known)) for run, known in (("a", {}), ("b", change)))
    with pytest.raises(UserError, match=message):
        compare(a, b)


def test_runs_against_other_reference_labels_are_refused(tmp_path):
    """Digests that look like numbers are none. A table from before, without them, is compared as it was."""
    digests = ["0000000000000012", "12e4000000000000", "abcdef0123456789", *"defghij"]
    changed = ["0000000000000012", "12e4000000000001", "abcdef0123456780", *"DEFGHI", "j"]
    names = [f"p{n}" for n in range(10)]
    a = write(tmp_path / "a", make_rows({}, names, reference_sha256=digests))
    b = write(tmp_path / "b", make_rows({}, names, reference_sha256=changed))
    before = write(tmp_path / "before", make_rows({}, names))
    with pytest.raises(UserError) as told:
        compare(a, b)
    assert str(told.value) == (
        f"8 cases have other reference labels in {a} than in {b}: s001, s002, s003, s004, s005 and others; evaluate "
        "both against the same"
    )
    for first, second in ((a, a), (a, before), (before, b)):
        assert line_of(compare(first, second), "la dice")[2] == "+0.0000"


def test_the_digest_is_of_the_reference_label_on_its_grid(judge, release, tmp_path):
    """Labels of one frame drawn otherwise, the release's left as they are: the digest of the network's grid alone
    changes, of that frame alone, and the two runs are not compared."""
    other = Path(shutil.copytree(release / "nearest", tmp_path / "data"))
    stem = "patient0001_2CH_ED_testing"
    path = other / "annotations" / "testing" / f"{stem}.png"
    labels = np.array(Image.open(path))
    labels[0, 0] = 3
    Image.fromarray(labels).save(path)
    found = {}
    for name, data, native in (("a", release / "nearest", ()), ("b", other, ()), ("c", release / "nearest", "native"),
                               ("d", other, "native")):  # fmt: skip
        flags = ["--data-dir", data, "--predictions", release / "nearest" / "annotations" / "testing"]
        flags += ["--native-dir", release / "camus"] if native else []
        assert judge(*flags, "--test-viz-num", 0, "--output-dir", tmp_path / name) == 0
        found[name] = {row["stem"]: row["reference_sha256"] for row in read_rows(tmp_path / name / "metrics.csv")}
    assert found["b"][stem] == hashlib.sha256(labels.tobytes()).hexdigest()[:16]
    truth = sitk.ReadImage(str(release / "camus/database_nifti/patient0001/patient0001_2CH_ED_gt.nii.gz"))
    native = sitk.GetArrayFromImage(truth).astype(np.uint8)
    assert found["c"][stem] == hashlib.sha256(native.tobytes()).hexdigest()[:16]
    assert [name for name in found["a"] if found["a"][name] != found["b"][name]] == [stem] and found["c"] == found["d"]
    with pytest.raises(UserError, match=f"1 cases have other reference labels in .*: {stem}; evaluate both"):
        compare(tmp_path / "a", tmp_path / "b")
    assert line_of(compare(tmp_path / "c", tmp_path / "d"), "la dice")[2] == "+0.0000"


@pytest.mark.parametrize("column", ["la_hd95", "lv_endo_msd", "diagonal", "ef_predicted", "esv_ml_reference"])
def test_a_table_without_a_column_of_numbers_is_refused(tmp_path, column):
    patients = [{"patient": name} for name in "abc"]
    for row in patients:
        row |= {f"{q}_{source}": 50.0 for q in QUANTITIES for source in ("predicted", "reference")}
    rows = [{k: v for k, v in row.items() if k != column} for row in make_rows({}, "abc")]
    patients = [{k: v for k, v in row.items() if k != column} for row in patients]
    a = write(tmp_path / "a", rows, patients)
    name = "ejection_fraction.csv" if "_reference" in column or "_predicted" in column else "metrics.csv"
    with pytest.raises(UserError, match=f"{name}: not a table of this program, or empty, or of an earlier version"):
        compare(a, a)


def test_a_table_of_an_earlier_version_is_refused(tmp_path):
    """It says mm without the size at which they were measured."""
    rows = [{k: v for k, v in row.items() if k not in ("grid", "diagonal")} for row in make_rows({}, "abc")]
    a = write(tmp_path / "a", rows)
    with pytest.raises(UserError, match="earlier version"):
        compare(a, a)
