"""What a command shows while it works: a bar on a terminal, plain lines in a log file."""

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import progress as shown
from progress import Progress, next_step, track

ROOT = Path(__file__).resolve().parents[2]
LOOP = """
import sys, time
sys.path.insert(0, sys.argv[1])
import progress
progress.SECONDS_BETWEEN_LINES = 0.2
for epoch in (1, 2):
    for _ in progress.track(range(6), f"epoch {epoch}", 6, "batch", keep=False):
        time.sleep(0.12)
    print(f"epoch {epoch}: loss 0.5", flush=True)
with progress.Progress("frames", 8, "frame", start=4) as bar:
    bar.reach(6)
    bar.say("a line between")
    bar.reach(8)
"""


def run_loop(**streams: int) -> subprocess.CompletedProcess:
    folder = str(ROOT / "echo_segmentation")
    return subprocess.run([sys.executable, "-c", LOOP, folder], check=True, timeout=60, **streams)


@pytest.fixture(scope="module")
def on_a_terminal() -> str:
    """Everything that a terminal gets of LOOP."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    try:
        run_loop(stdout=slave, stderr=slave)
        os.set_blocking(master, False)
        return os.read(master, 2**16).decode()
    finally:
        os.close(slave)
        os.close(master)


def as_it_stands(text: str) -> list[str]:
    """The lines that remain on a terminal, where a carriage return goes back, and a cursor-up to the line above."""
    lines, row, column = [""], 0, 0
    for character in text.replace("\x1b[A", "\x00"):
        if character == "\r":
            column = 0
        elif character == "\x00":
            row -= 1
        elif character == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_a_terminal_has_a_bar_with_rate_and_time_left(on_a_terminal):
    moving = [part for part in on_a_terminal.split("\r") if part.startswith("epoch 1:") and "|" in part]
    assert any("0/6" not in part and "batch/s" in part and "<00:0" in part for part in moving)


def test_of_an_epoch_one_line_stays_on_the_terminal(on_a_terminal):
    left = as_it_stands(on_a_terminal)
    assert left[:3] == ["epoch 1: loss 0.5", "epoch 2: loss 0.5", "a line between"]
    assert len(left) == 4 and "8/8" in left[3]


def test_a_log_file_has_plain_lines_now_and_then_and_no_carriage_returns(tmp_path):
    with open(tmp_path / "log", "w") as log:
        run_loop(stdout=log, stderr=log)
    text = (tmp_path / "log").read_bytes().decode()
    assert "\r" not in text and "\x1b" not in text and "|" not in text
    lines = text.splitlines()
    told = [line for line in lines if line.startswith("epoch 1: ") and "loss" not in line]
    assert 1 <= len(told) <= 4 and all(" of 6, " in line and "s left"[1:] in line for line in told)
    assert lines[-2:] == ["a line between", "frames: 8 of 8 in 00:00"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves: clock[0] is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_count_from_where_the_run_began(clock, capsys):
    with Progress("training", 100, "step", start=40) as bar:
        for step in range(41, 61):  # and then it is stopped
            clock[0] += 4
            bar.reach(step)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"training: {n} of 100, 4.0 s/step, {left} left" for n, left in ((48, "03:28"), (56, "02:56"))]


def test_without_an_end_there_is_no_time_left_and_nothing_done_is_no_rate(clock, capsys):
    with Progress("training", None, "step") as bar:
        clock[0] = 30
        bar.reach(0)
        clock[0] = 60
        bar.reach(120)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["training: 0, none yet in 00:30", "training: 120, 2.0 step/s"]


def test_the_end_is_told_once_and_where_there_is_one(clock, capsys):
    with pytest.raises(ValueError), Progress("frames", 3) as bar:
        bar.reach(2)
        raise ValueError
    for _ in track(range(3), "reading", 3, keep=False):
        pass
    with Progress("sampling", 8, start=8) as bar:
        bar.reach(8)
    assert capsys.readouterr().err == ""
    with Progress("training", 2) as bar:
        for step in (1, 2, 2):
            clock[0] += 7
            bar.reach(step)
        bar.say("next: this line is the last")
    told = capsys.readouterr()
    assert told.err == "training: 2 of 2 in 00:14\n" and told.out == "next: this line is the last\n"


def test_what_comes_next_can_be_pasted_where_one_stands(monkeypatch):
    monkeypatch.chdir(ROOT)
    line = next_step("echo_segmentation/runner.py", "--data-dir", Path("/my data/views"))
    assert line == "next: python echo_segmentation/runner.py --data-dir '/my data/views'"
    monkeypatch.chdir(ROOT / "semantic_diffusion_model")
    assert next_step("data_preparation/x.py") == "next: python ../data_preparation/x.py"


def test_no_command_draws_a_bar_of_its_own():
    for folder in ("data_preparation", "semantic_diffusion_model", "echo_segmentation"):
        importers = {path.name for path in (ROOT / folder).rglob("*.py") if "tqdm import" in path.read_text()}
        assert importers == {"progress.py"}, folder
