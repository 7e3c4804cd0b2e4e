"""Two runs in one folder: one works, the other is refused in one line, whichever came first."""

import os
import signal
import time

import pytest
from launching import NETWORK, words_of

TOGETHER = pytest.mark.parametrize("together", [False, True], ids=["later", "at once"])


@pytest.fixture(scope="session")
def commands(datadir, weights, release, hearts):
    """Name -> (command, flags but for the output folder, the flag of that)."""
    train = words_of(**NETWORK, datadir=datadir, num_workers=0, preview_steps=0, lr_anneal_steps=60, save_interval=30)
    sample = words_of(datadir=datadir, resume_checkpoint=weights, num_samples=24, batch_size_test=1, device="cpu")
    segment = ["--data-dir", hearts, "--gpu", "cpu", "--img-size", 64, "--epochs", 4, "--decoder-channels", 16, 8, 8]
    extract = words_of(camus_data_folder=release, num_workers=0, save_img_size=1024)
    return {
        "image_train": (train, "--savedir"),
        "image_sample": (sample, "--results_dir"),
        "runner": ([*segment, "--test-viz-num", 0], "--output-dir"),
        "extract_camus_data": (extract, "--save_folder_path"),
    }


def pair(forge, commands, command: str, seeds, folder, together: bool):
    flags, out = commands[command]
    words = [[*flags, out, folder] + (["--seed", seed] if seed is not None else []) for seed in seeds]
    first = forge.start(command, words[0], folder.parent / "first.log")
    end = time.monotonic() + 120
    while not together and not list(folder.glob(".*lock")):
        assert first.poll() is None and time.monotonic() < end, first.said
        time.sleep(0.005)
    second = forge.start(command, words[1], folder.parent / "second.log")
    return first, second


@TOGETHER
@pytest.mark.parametrize(
    ("command", "seeds"),
    [
        ("image_train", (0, 0)),
        ("image_train", (0, 1)),
        ("image_sample", (0, 0)),
        ("image_sample", (0, 1)),
        ("runner", (0, 1)),
        ("extract_camus_data", (None, None)),
    ],
)
def test_one_of_two_runs_is_refused(forge, commands, tmp_path, survived, command, seeds, together):
    survived("two runs in one folder", "one works as if alone, the other is refused in one line")
    folder = tmp_path / "out"
    runs = pair(forge, commands, command, seeds, folder, together)
    codes = [run.wait() for run in runs]
    assert sorted(codes) == [0, 2], [run.said for run in runs]
    assert together or codes == [0, 2]
    said = [line for line in runs[codes.index(2)].said.splitlines() if "error" in line]
    pid = runs[codes.index(0)].pid
    assert len(said) == 1 and "in use by another run" in said[0] and f"process {pid} on" in said[0]
    assert not list(folder.rglob(".*"))


def test_a_killed_run_keeps_nobody_out(forge, commands, tmp_path):
    folder = tmp_path / "out"
    flags, out = commands["image_train"]
    first = forge.start("image_train", [*flags, out, folder], tmp_path / "log")
    end = time.monotonic() + 120
    while not (folder / ".lock").exists():
        assert first.poll() is None and time.monotonic() < end, first.said
        time.sleep(0.005)
    first.kill(signal.SIGKILL)
    first.wait()
    assert (folder / ".lock").exists()
    (folder / ".abcdefgh.tmp.pt").write_bytes(b"half a checkpoint")
    (folder / ".notes.tmp").write_text("somebody's")
    os.utime(folder / ".lock")
    second = forge.start("image_train", [*flags, out, folder, "--lr_anneal_steps", 1], tmp_path / "log")
    assert second.wait() == 0, second.said
    assert "removed 1 unfinished files of a killed run" in second.said
    assert [path.name for path in folder.glob(".*")] == [".notes.tmp"]
