"""/dev/shm as small as a container's, and loader processes that are killed: training goes on with fewer, or says so."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from launching import MANY_CORES, NETWORK, words_of
from PIL import Image

from guided_diffusion.data.shared_memory import BUSIEST, SHARE, processes_that_fit


def test_what_is_in_flight_fits():
    for asked in (1, 3, 8):
        for per_step in (1, 2, 7):
            for room in (0, 10, 100, 1000, 10**6):
                processes, ahead = processes_that_fit(asked, per_step, 3, room)
                assert 0 <= processes <= asked
                if processes:
                    assert (processes * ahead + 2 * per_step) * BUSIEST * 3 <= SHARE * room
                assert processes == asked or room < 10**6
    assert processes_that_fit(4, 1, 1, 0) == (0, 0)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Eight pictures of 64 x 64 pixels, each in colour and with many small regions: a batch takes half a megabyte."""
    folder = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for i in range(8):
        labels = generator.integers(0, 5, (16, 16)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        Image.fromarray(labels).save(folder / "labels" / f"p{i}.png")
        image = generator.integers(0, 255, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"p{i}.png")
    return folder


def can_mount() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount: /dev/shm keeps its size")
def test_a_small_dev_shm_takes_fewer_loaders_and_says_so(start, large, tmp_path, survived):
    survived("a small /dev/shm", "fewer loaders, or none; said in a line; trained to the end")
    flags = words_of(**NETWORK | {"img_size": 64, "attention_resolutions": "1"}, datadir=large)
    flags += words_of(dataset_mode="folder", savedir=tmp_path / "out", num_workers=4, batch_size_train=8)
    flags += words_of(lr_anneal_steps=2, preview_steps=0, log_interval=1)
    small = [shutil.which("unshare"), "-m", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"', "sh"]
    run = start("semantic_diffusion_model/image_train.py", flags, launcher=small, **MANY_CORES)
    assert run.finish(400) == 0, run.said
    assert "loader processes instead of 4: /dev/shm leaves" in run.said
    assert "step 2:" in run.said and "Traceback" not in run.said


def test_a_loader_that_is_killed_ends_the_training_in_one_line(start, datadir, tmp_path, survived):
    survived("kill -9 of a loader", "one line, exit 2, the checkpoints stay")
    flags = words_of(**NETWORK, datadir=datadir, savedir=tmp_path / "out", num_workers=2, preview_steps=0)
    flags += words_of(log_interval=1, lr_anneal_steps=0, save_interval=2)
    run = start("semantic_diffusion_model/image_train.py", flags, **MANY_CORES)
    run.until_said("step 3:")
    os.kill(loader_of(run), signal.SIGKILL)
    assert run.finish() == 2, run.said
    assert run.said.count("error:") == 1 and "a loader process died" in run.said and "Traceback" not in run.said
    assert (tmp_path / "out" / "opt000002.pt").exists()


def loader_of(run) -> int:
    """A process that the fork server has forked: its child."""
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in run.members()}
    return next(pid for pid, parent in parents.items() if parents.get(parent) == run.process.pid)


def test_the_loaders_of_a_segmentation_fit_too():
    from loader import AHEAD, SHM_SHARE
    from loader import processes_that_fit as of_the_segmentation

    for asked in (0, 1, 8):
        for free in (0, 10**5, 10**7, 10**9):
            processes = of_the_segmentation(asked, 10**5, free)
            assert 0 <= processes <= asked and processes == (asked if free == 10**9 else processes)
            assert not processes or (AHEAD * processes + 2) * 10**5 <= SHM_SHARE * free
