"""kill -9 at any moment, again and again: what is complete in the end equals what was never interrupted."""

import csv
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import NETWORK, words_of
from PIL import Image

from guided_diffusion.training.run_log import MACHINE_COLUMNS

KILLS = pytest.mark.parametrize(
    ("seed", "kills"), [(0, [3]), pytest.param(1, [11, 11], marks=pytest.mark.slow)], ids=["fast", "all"]
)


def killed_and_resumed(forge, command: str, flags: list, folder: Path, seed: int, kills: int, whole: float) -> None:
    """Kill the command `kills` times, at moments spread over `whole` (the seconds it takes), then let it end."""
    generator = np.random.default_rng(seed)
    log = folder.with_suffix(".log")
    done = 0
    while done < kills:
        run = forge.start(command, flags, log)
        time.sleep(generator.uniform(0, whole))
        if run.poll() is None:
            run.kill(signal.SIGKILL)
        code = run.wait()
        assert code in (0, -signal.SIGKILL), run.said
        done += code != 0
        if code == 0:  # it was done before: kill it as it looks what there is to do
            whole /= 2
    last = forge.start(command, flags, log)
    assert last.wait() == 0, last.said
    hidden = list(folder.rglob(".*"))
    assert not hidden, hidden  # no temporaries, no lock, nothing unfinished


def all_killed(
    forge, command: str, flags: list, to: str, folder: Path, seed: int, kills: list[int], whole: float
) -> list[Path]:
    """`killed_and_resumed` for each of `kills`, side by side; the folders that were made, named by the flag `to`."""
    folders = [folder / f"killed{place}" for place in range(len(kills))]
    with ThreadPoolExecutor(len(kills)) as pool:
        running = [
            pool.submit(killed_and_resumed, forge, command, [*flags, to, made], made, seed + place, kills[place], whole)
            for place, made in enumerate(folders)
        ]
    for one in running:
        one.result()
    return folders


def timed(forge, command: str, flags: list, log: Path) -> float:
    start = time.monotonic()
    run = forge.start(command, flags, log)
    assert run.wait() == 0, run.said
    return time.monotonic() - start


def rows_of(path: Path) -> list[dict[str, str]]:
    """A progress.csv without the columns about the machine."""
    with open(path, newline="") as file:
        return [{name: row[name] for name in row if name not in MACHINE_COLUMNS} for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = (torch.load(path, weights_only=True) for path in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@KILLS
def test_training(forge, datadir, tmp_path, survived, seed, kills):
    survived("kill -9 of a training", "goes on to equal bits, leaves nothing unfinished", sum(kills))
    flags = words_of(**NETWORK, datadir=datadir, num_workers=0, preview_steps=2, lr_anneal_steps=12, save_interval=2)
    flags += words_of(batch_size_train=2, lr=1e-3, log_interval=3, keep_checkpoints=3, random_flip=True)
    whole = tmp_path / "whole"
    seconds = timed(forge, "image_train", [*flags, "--savedir", whole], tmp_path / "log")
    names = sorted(path.name for path in whole.glob("*.pt"))
    assert len(names) == 9
    for killed in all_killed(forge, "image_train", flags, "--savedir", tmp_path, seed, kills, seconds):
        assert sorted(path.name for path in killed.glob("*.pt")) == names
        assert all(same_weights(whole / name, killed / name) for name in names if not name.startswith("opt"))
        assert rows_of(whole / "progress.csv") == rows_of(killed / "progress.csv")
        previews = [{path.name: path.read_bytes() for path in run.glob("preview_*.png")} for run in (whole, killed)]
        assert previews[0] == previews[1] and len(previews[0]) == 6


@KILLS
def test_sampling(forge, datadir, weights, tmp_path, survived, seed, kills):
    survived("kill -9 of a sampling", "each image once, equal to the uninterrupted ones", sum(kills))
    flags = words_of(datadir=datadir, resume_checkpoint=weights, num_samples=24, batch_size_test=2, device="cpu")
    whole = tmp_path / "whole"
    seconds = timed(forge, "image_sample", [*flags, "--results_dir", whole], tmp_path / "log")
    for killed in all_killed(forge, "image_sample", flags, "--results_dir", tmp_path, seed, kills, seconds):
        manifests = []
        for folder in (whole, killed):
            with open(folder / "manifest.csv", newline="") as file:
                manifests.append(list(csv.DictReader(file)))
        assert manifests[0] == manifests[1] and len(manifests[0]) == 24
        names = [sorted(path.name for path in (folder / "samples").iterdir()) for folder in (whole, killed)]
        assert names[0] == names[1] and len(names[0]) == 24
        for name in names[0]:
            assert (whole / "labels" / name).read_bytes() == (killed / "labels" / name).read_bytes()
            # Another batch rounds otherwise: to a grey level.
            one, other = (np.asarray(Image.open(folder / "samples" / name)).astype(int) for folder in (whole, killed))
            assert abs(one - other).max() <= 1


@KILLS
def test_extraction(forge, release, tmp_path, survived, seed, kills):
    survived("kill -9 of an extraction", "folders whole or not there, the rest swept", sum(kills))
    flags = words_of(camus_data_folder=release, num_workers=0, save_img_size=64) + ["--overwrite", "True"]
    whole = tmp_path / "whole"
    command = "extract_camus_data"
    seconds = timed(forge, command, [*flags, "--save_folder_path", whole], tmp_path / "log")
    for killed in all_killed(forge, command, flags, "--save_folder_path", tmp_path, seed, kills, seconds):
        files = [
            {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (whole, killed)
        ]
        assert files[0] == files[1] and len(files[0]) > 100


@KILLS
def test_segmentation(forge, hearts, tmp_path, survived, seed, kills):
    survived("kill -9 of a segmentation", "goes on to equal bits, leaves nothing unfinished", sum(kills))
    flags = ["--data-dir", hearts, "--gpu", "cpu", "--img-size", 64, "--epochs", 4, "--batch-size", 4]
    flags += ["--decoder-channels", 16, 8, 8, "--num-workers", 0, "--test-viz-num", 0]
    whole = tmp_path / "whole"
    seconds = timed(forge, "runner", [*flags, "--output-dir", whole], tmp_path / "log")
    for killed in all_killed(forge, "runner", flags, "--output-dir", tmp_path, seed, kills, seconds):
        assert same_weights(whole / "model.pth", killed / "model.pth")
        assert (whole / "log.csv").read_text() == (killed / "log.csv").read_text()
