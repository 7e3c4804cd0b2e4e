"""The chain by hand, as `make demo` runs it, at the smallest size."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"PATIENTS": "10", "STEPS": "2", "REPEAT": "1", "SAMPLES": "14", "EPOCHS": "1"}


def run_demo(folder: Path, *args: str, **changes: str) -> subprocess.CompletedProcess:
    settings = {f"DEMO_{name}": value for name, value in (SMALL | changes | {"FOLDER": str(folder)}).items()}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "pipelines" / "demo.sh", *args],
        env=os.environ | settings | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=560,
    )


def test_a_wrong_folder_is_told_before_anything_is_made(tmp_path):
    done = run_demo(tmp_path / "demo", str(tmp_path / "no" / "camus"))
    assert done.returncode == 2 and "no/camus' is not a folder" in done.stderr
    for words, text in ((("",), "'' is not a folder"), ((str(tmp_path), "more"), "one word at most")):
        done = run_demo(tmp_path / "demo", *words)
        assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        *(
            (name, "0", "DEMO_{}: '0' is no whole number")
            for name in ("PATIENTS", "STEPS", "REPEAT", "EPOCHS", "RANKS")
        ),
        ("STEPS", "010", "DEMO_STEPS: '010' is no whole number"),
        ("SAMPLES", "-1", "DEMO_SAMPLES: '-1' is no whole number"),
        ("RANKS", "two", "DEMO_RANKS: 'two' is no whole number"),
        ("RANKS", "3", "DEMO_RANKS: 3 does not divide the batch of 8"),
        ("DEVICE", "gpu", "DEMO_DEVICE: 'gpu' is neither cpu nor cuda"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_made(tmp_path, name, value, text):
    done = run_demo(tmp_path / "demo", **{name: value})
    assert done.returncode == 2 and text.format(name) in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "demo").exists()


@pytest.mark.launch
@pytest.mark.timeout(1200)
def test_the_chain_runs_and_runs_again_without_doing_anything_twice(tmp_path):
    folder = tmp_path / "demo"
    first = run_demo(folder)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "LV endocardium" in (folder / "table.txt").read_text()
    steps = first.stdout.split("/11] ")[1:]
    assert [step.count("\nnext: ") for step in steps] == [1] * 10 + [0]  # the report ends it
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png") == 7 and page.count("<pre>") == 10
    assert "of 14 are copies of training frames" in (folder / "table.txt").read_text()
    assert (folder / "evaluation" / "evaluation.md").is_file()
    sheet = cv2.imread(str(folder / "picture.png"))
    assert sheet.shape[0] > 4 * 64 and sheet.shape[1] > 7 * 64  # label, synthetic, overlay and real of 14 images
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    with open(folder / "results" / "manifest.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and len({row["stem"] for row in rows}) == 14
    for row in rows:
        synthetic = cv2.imread(str(folder / "results" / "samples" / f"{row['stem']}.png"), cv2.IMREAD_UNCHANGED)
        label = cv2.imread(str(folder / "results" / "labels" / f"{row['stem']}.png"), cv2.IMREAD_UNCHANGED)
        assert synthetic.ndim == 2 and set(np.unique(label)) <= set(range(5))
        # The shipped weights know the cone: dark outside, echoes inside, and blood darker than muscle.
        assert synthetic[label == 0].mean() < 30 < synthetic[label == 2].mean()
        assert synthetic[label == 1].mean() < synthetic[label == 3].mean()

    again = run_demo(folder)
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stdout.count("done before") == 10 and "continuing it" in again.stdout
    other = run_demo(folder, STEPS="3")
    assert other.returncode == 2 and "made with other settings" in other.stderr
