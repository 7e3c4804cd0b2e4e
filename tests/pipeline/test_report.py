"""The page that a demo ends with: complete, self-contained, and readable in a browser."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "pipelines"))
from page import write_page  # noqa: E402
from report import apart, evaluation  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DICE = {"lv_endo": 0.91, "lv_epi": 0.87, "la": 0.5}


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((90, 600, 3), grey, np.uint8))


@pytest.fixture
def finished(tmp_path) -> Path:
    """What a demo leaves that the page tells of."""
    demo = tmp_path / "demo"
    write_picture(demo / "picture.png", 120)
    write_csv(demo / "results" / "manifest.csv", [{"stem": f"p{i}"} for i in range(37)])
    losses = [{"step": 10 * i, "mse": 1 / i, "val_mse": 2 / i if i % 2 else ""} for i in range(1, 6)]
    write_csv(demo / "diffusion" / "progress.csv", losses)
    for name in ("real", "synthetic"):
        run = demo / f"segmentation_{name}"
        write_picture(run / "figures" / "dice.png", 200)
        write_csv(run / "log.csv", [{"epoch": i, "dice_mean": i / 9, "val_dice_mean": i / 10} for i in range(1, 4)])
        means = {
            key: {"dice": {"mean": mean - (name == "real") / 8, "std": 0.04, "n": 16}} for key, mean in DICE.items()
        }
        (run / "summary.json").write_text(json.dumps({"overall": means}))
    (demo / ".done").mkdir()
    for moment, number in enumerate((2, 9, 10)):
        note = demo / ".done" / str(number)
        note.write_text(f"python step{number}.py --flag '<b>&'" + "\nthe words that count" * (number > 2))
        os.utime(note, (moment, moment))
    (demo / ".done" / "11.begun").write_text("python never.py")
    (demo / ".done" / "times").write_text("7\t2\tA title\n")
    return demo


def make_page(demo: Path) -> str:
    return write_page(demo).read_text()


class Page(HTMLParser):
    """Headings, cells, commands, addresses and the tags left open of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.found, self.addresses = [], {"h2": [], "td": [], "th": [], "pre": []}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in self.found:
            self.found[self.open[-1]].append(text)


def test_the_page_holds_everything_and_asks_for_nothing(finished):
    command = [sys.executable, ROOT / "pipelines" / "report.py", "page", finished]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and str(finished / "report.html") in done.stdout, done.stderr
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert page.found["h2"] == ["Synthetic frames", "Segmentation", "Training", "Commands"]
    assert "drew 37 ultrasound frames" in text and "CC BY-NC-SA" in text
    assert page.found["th"] == ["Dice on 16 test frames", "trained on synthetic", "trained on real"]
    assert page.found["td"][:3] == ["LV endocardium", "0.910 ± 0.040", "0.785 ± 0.040"]
    assert page.found["pre"] == [f"python step{number}.py --flag '<b>&'" for number in (2, 9, 10)]
    # The picture, two Dice figures and two figures of curves, nothing from elsewhere.
    assert len(page.addresses) == 5 and all(one.startswith("data:image/png;base64,iVBOR") for one in page.addresses)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert not list(finished.glob(".report*"))


@pytest.mark.parametrize("marked", ["camus/database_nifti", "views/all_views"])  # the latter of a release elsewhere
def test_evaluations_and_phantoms_are_told_where_they_are(finished, marked):
    (finished / marked).mkdir(parents=True)
    (finished / marked / "PHANTOMS.txt").write_text("simulated\n")
    pair = {"real": 1.23456, "synthetic": 2, "difference": 0.76544, "interval": [0.5, 1], "yardstick": 0.3}
    pairs = {"lv_cavity": {"cnr": pair | {"outside": True, "unit": ""}, "sd": pair | {"outside": False, "unit": "dB"}}}
    numbers = {"fid": {"value": 12.34567, "features": "<own>"}, "images": 37, "histogram": [1, 2], "prdc": None}
    numbers["contrast"] = pairs
    write_picture(finished / "evaluation" / "figures" / "differences.png", 90)
    (finished / "evaluation" / "evaluation.json").write_text(json.dumps(numbers))
    text = make_page(finished)
    cells = Page(text).found["td"]
    values = ["1.235", "2", "0.7654", "0.3"]
    assert cells[9:19] == ["contrast lv cavity cnr", *values, "contrast lv cavity sd, dB", *values]
    assert cells[19:] == ["fid, value", "12.35", "fid, features", "<own>", "images", "37"]
    assert text.count('class="counts"') == 1 and text.index('class="counts"') < text.index("lv cavity sd")
    assert not Page(text).open and text.count("<img") == 6
    assert "How good the synthetic frames are" in text and "phantoms, simulated" in text and "CC BY-NC-SA" not in text


def test_numbers_that_are_not_defined_are_told_as_such(tmp_path):
    """evaluation.json says null, as for a class that a frame has not."""
    none = dict.fromkeys(("real", "synthetic", "difference", "interval", "yardstick")) | {"outside": False}
    sections = dict.fromkeys(("grey_levels", "autocorrelation", "power_spectrum"), {})
    entry = sections | {
        "contrast": {"lv_cavity against lv_myocardium": {"gcnr": none}},
        "speckle": {"lv_myocardium": {"nakagami_m": none | {"synthetic": 0.5}}},
        "memorisation": {"copies": 0},
        "images": {"synthetic": 3},
        "label_agreement": {"synthetic": {"la": {"dice": None}, "frames": 3}, "real": None},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(entry))
    told = evaluation(str(tmp_path))
    assert "gCNR undefined (real undefined" in told and "Nakagami m of the wall 0.50 (real undefined" in told
    assert "0 of 0 differences" in told and told.endswith("by structure: undefined in synthetic frames")


def test_what_was_not_judged_is_counted_nowhere():
    """A difference without a yardstick: null now, "within" in evaluations of older versions."""
    one = {"difference": 3.0, "yardstick": 1.0, "outside": True}
    undefined = [one | {"yardstick": None, "outside": outside} for outside in (None, False)]
    rows = {"lv_cavity": {"mean": one, "sd": one | {"difference": 0.5, "outside": False}}}
    rows |= {f"class {i}": {"mean": other} for i, other in enumerate(undefined)}
    entry = {"grey_levels": rows} | dict.fromkeys(("contrast", "speckle", "autocorrelation", "power_spectrum"), {})
    assert apart(entry).startswith("1 of 2 differences are larger") and apart(entry).endswith("mean (lv cavity)")


def test_what_is_not_there_has_no_section(tmp_path):
    text = make_page(tmp_path)
    assert Page(text).found == {"h2": [], "td": [], "th": [], "pre": []} and "<img" not in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page(finished):
    make_page(finished)
    shot = finished / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1600"]
    place = [f"--user-data-dir={finished / 'profile'}", f"--screenshot={shot}", f"file://{finished}/report.html"]
    subprocess.run([BROWSER, *flags, *place], check=True, capture_output=True, timeout=120)
    page = cv2.imread(str(shot))
    assert page.shape == (1600, 1000, 3)
    text_and_pictures = np.ptp(page.reshape(1600, -1).astype(int), axis=1) > 60
    assert text_and_pictures.mean() > 0.3  # rows that show anything
    # The picture, 600 pixels wide in one grey, arrives at its own size, and both Dice figures beside one another.
    assert (np.all(page == 120, axis=2).sum(axis=1) == 600).sum() == 90
    assert (np.all(page == 200, axis=2).sum(axis=1) > 600).sum() > 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report.py"], "one of epochs (3 words), table"),
        (["report.py", "pages", "demo"], "one of epochs (3 words), table"),
        (["report.py", "epochs", "demo"], "one of epochs (3 words), table"),
        (["report.py", "epochs", "a", "b", "x"], "one of epochs (3 words), table"),
        (["report.py", "table", "no", "none"], "No such file or directory: no/summary.json"),
        (["report.py", "epochs", ".", "empty", "3"], "no frames to train on: empty"),
        (["report.py", "table", "empty", "empty"], "empty empty: not what this project writes there"),
        (["report.py", "evaluation", "empty"], "empty: not what this project writes there"),
        (["check_commands.py"], "one word, the file with the commands"),
        (["check_commands.py", "no"], "one word, the file with the commands"),
        (["nearest_frames.py"], "name the folder of replicate.sh, or of the demo"),
        (["nearest_frames.py", "no", "x"], "name the folder of replicate.sh, or of the demo"),
        (["nearest_frames.py", "no", "2", "1", "0"], "name the folder of replicate.sh, or of the demo"),
        (["nearest_frames.py", "no", "2", "-1"], "name the folder of replicate.sh, or of the demo"),
        (["replication_table.py", "no"], "name the folder of replicate.sh, a scale"),
        (["replication_table.py", "no", "cpu64", "one"], "name the folder of replicate.sh, a scale"),
        (["replication_table.py", "no", "cpu64"], "needed are the same for all"),
    ],
)
def test_a_slip_in_a_command_is_one_line(words, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/summary.json").write_text("{}")
    (tmp_path / "empty/evaluation.json").write_text("{")
    command = [sys.executable, ROOT / "pipelines" / words[0], *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
