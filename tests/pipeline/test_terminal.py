"""What a command shows while it works: a bar on a terminal, plain lines in a log file."""

import os
import pty
import shlex
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import progress as shown
from command import parse_settings
from config import Settings
from guided_diffusion.runs.world import World
from guided_diffusion.sampling import reporting
from guided_diffusion.training.reporting import ending
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
    line = next_step("data_preparation/x.py", launcher="mpiexec -np 2 python")
    assert line == "next: mpiexec -np 2 python ../data_preparation/x.py"


def test_after_a_training_comes_sampling_for_deformed_maps(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    datadir, deformed = tmp_path / "my data" / "2CH_ED_sector", tmp_path / "my data" / "2CH_ED_augmented"
    settings = Settings(datadir=f"{datadir}/", savedir="out")

    def last(**world) -> str:
        return ending(settings, World(**world), 5, "ema_0.9999_000005.pt").splitlines()[-1]

    words = "--resume_checkpoint out/ema_0.9999_000005.pt --results_dir ./results --num_steps 10 --all True"
    script = "semantic_diffusion_model/image_sample.py"
    assert last() == f"next: python {script} --datadir AUGMENTED {words}"
    deformed.mkdir(parents=True)
    line = last(size=2, launcher="mpi")
    assert line == f"next: mpiexec -np 2 python {script} --datadir '{deformed}' {words}"
    given = parse_settings(Settings, shlex.split(line.split(script)[1]))
    assert (given.datadir, given.num_steps, given.all) == (str(deformed), 10, True)
    settings = Settings(datadir="mine", dataset_mode="folder", savedir="out")
    assert last() == f"next: python {script} --datadir mine --dataset_mode folder {words}"


def test_folders_of_the_next_step_are_those_that_are_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reporting, "ROOT", tmp_path / "clone")
    line = reporting.segmentation_step("r")
    assert "--testing_data_folder VIEWS " in line and line.endswith("--save_folder data/segmentation")
    (tmp_path / "clone" / "data" / "views").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "clone" / "data")
    line = reporting.segmentation_step("my results")
    assert line.endswith(" views --sdm_results_folder 'my results' --save_folder data/segmentation")


def test_no_command_draws_a_bar_of_its_own():
    for folder in ("data_preparation", "semantic_diffusion_model", "echo_segmentation"):
        importers = {path.name for path in (ROOT / folder).rglob("*.py") if "tqdm import" in path.read_text()}
        assert importers == {"progress.py"}, folder


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_goes_on_when_nobody_reads_what_it_prints(tmp_path, unbuffered):
    """As where `tee` was killed: both streams break, and the work is done all the same."""
    script = ROOT / "data_preparation" / "make_phantom_camus.py"
    command = [sys.executable, script, "--save_folder", tmp_path / "camus", "--n_patients", "3", "--size", "64"]
    settings = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(command, stdout=writes, stderr=writes, timeout=120, env=settings)
        assert done.returncode == 0
        assert len(list((tmp_path / "camus").glob("*/patient*"))) == 3
        asked = subprocess.run([*command, "--help"], stdout=writes, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (asked.returncode, asked.stderr) == (0, "")
        wrong = subprocess.run([*command, "--n_patients", "0"], stdout=writes, stderr=writes, timeout=60)
        assert wrong.returncode == 2
    finally:
        os.close(writes)
