"""Sampling on several ranks, for real: the README's command, a rank that is killed, an error that all share."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from config import Settings
from guided_diffusion.runs import distributed
from guided_diffusion.runs.checkpoints import ema_name, plain_state_dict, write_torch
from guided_diffusion.sampling.job import run_sampling
from guided_diffusion.sampling.results import FOLDERS, Results

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.launch


def write_checkpoint(folder: Path, random_weights: Path, settings: Settings) -> Path:
    weights = torch.load(random_weights, weights_only=True)
    write_torch(str(folder), ema_name(0.9999, 50000), plain_state_dict(weights, settings))
    return folder / "ema_0.9999_050000.pt"


def png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def alone(folder: Path, pictures: Path, checkpoint: Path, count: int, **changes) -> Path:
    """The job on one rank, in this process."""
    common = {"datadir": str(pictures), "resume_checkpoint": str(checkpoint), "results_dir": str(folder)}
    settings = Settings(**common | {"num_samples": count, "device": "cpu"} | changes)
    run_sampling(settings, {"num_samples"}, distributed.start("cpu"))
    return folder


def assert_same(one: Path, other: Path, count: int) -> None:
    """The same `count` images in all five folders, samples within one grey level, and as many rows."""
    for kind in FOLDERS:
        names = sorted(path.name for path in (one / kind).iterdir())
        assert names == sorted(path.name for path in (other / kind).iterdir()) and len(names) == count
    for name in names:
        assert abs(png(one / "samples" / name) - png(other / "samples" / name)).max() <= 1, name
    with open(one / "manifest.csv") as ours, open(other / "manifest.csv") as theirs:
        assert list(csv.DictReader(ours)) == list(csv.DictReader(theirs))
    assert not list(one.glob("manifest.part*"))


def test_the_readme_command_on_three_ranks_gives_the_images_of_one(
    pictures, random_weights, tiny, tmp_path, launch, as_flags
):
    """As it stands in the README: no flags of the network, whose settings come with the checkpoint."""
    checkpoint = write_checkpoint(tmp_path, random_weights, tiny(diffusion_steps=6))
    flags = as_flags(datadir=pictures, resume_checkpoint=checkpoint, results_dir=tmp_path / "three", num_samples=22)
    words = ["python3", "./image_sample.py", *flags, "--is_train", "False", "--inference_on_train", "True"]
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    process = launch(["mpiexec", "-np", "3"], words, PATH=path, CUDA_VISIBLE_DEVICES="")
    out = process.finish()
    assert process.returncode == 0, out
    assert "22 images, 0 of them there already; ddpm, 6 steps, fp32, 3 ranks on cpu" in out
    assert "sampling: 22 of 22" in out and out.count("averaged weights") == 1
    for size in (1, 7):
        assert_same(tmp_path / "three", alone(tmp_path / str(size), pictures, checkpoint, 22, batch_size_test=size), 22)


def ranks_of(results: Path) -> dict[int, int]:
    """Process ids of the ranks whose command line names `results`, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = dict(pair.split(b"=", 1) for pair in (folder / "environ").read_bytes().split(b"\0") if pair)
        except (OSError, ValueError):
            continue
        if os.fsencode(results) in words and words[1].endswith(b"image_sample.py") and b"PMI_RANK" in environment:
            found[int(environment[b"PMI_RANK"])] = int(folder.name)
    return found


def wait_until(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(process.communicate()[0])
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find the ranks")
def test_a_rank_is_killed_and_the_same_command_completes_the_set(
    pictures, random_weights, tiny, tmp_path, launch, as_flags
):
    """kill -9 loses at most the batches under way: two images on each of two ranks."""
    checkpoint, results = write_checkpoint(tmp_path, random_weights, tiny(diffusion_steps=12)), tmp_path / "results"
    flags = as_flags(datadir=pictures, resume_checkpoint=checkpoint, results_dir=results, num_samples=36)
    words = [sys.executable, "image_sample.py", *flags, "--batch_size_test", "2", "--device", "cpu"]
    process = launch(["mpiexec", "-np", "2"], words)
    here = Results(str(results), 0)
    wait_until(lambda: here.count_parts() >= 6, process)
    os.kill(ranks_of(results)[1], signal.SIGKILL)
    out = process.finish()
    assert process.returncode != 0, out
    assert not ranks_of(results), "the other rank has ended too"
    made = here.made()
    assert 6 <= len(made) < 36
    for path in results.rglob("[!.]*.png"):
        assert png(path).size, "no file is half written"
    whole = {stem for stem in made if all((results / kind / f"{stem}.png").exists() for kind in FOLDERS)}
    assert whole >= set(made), "a row is written after its files"
    begun = {path.stem for kind in FOLDERS for path in (results / kind).glob("[!.]*.png")}
    assert len(begun - set(made)) <= 2, "an image on each rank was being written"
    stamps = {stem: (results / "samples" / f"{stem}.png").stat().st_mtime_ns for stem in made}
    with open(results / "manifest.part0.csv", "ab") as file:
        file.write(b"p9_r3,/some/where")  # as if the row had been cut short
    process = launch(["mpiexec", "-np", "2"], words)
    out = process.finish()
    assert process.returncode == 0, out
    assert f"36 images, {len(made)} of them there already" in out and "sampling: 36 of 36" in out
    assert stamps == {stem: (results / "samples" / f"{stem}.png").stat().st_mtime_ns for stem in made}
    assert_same(results, alone(tmp_path / "alone", pictures, checkpoint, 36), 36)
    assert not list(results.rglob(".*")), "temporary files of the killed rank are swept away"


def test_a_mistake_is_told_once(pictures, random_weights, tiny, tmp_path, launch, as_flags):
    checkpoint = write_checkpoint(tmp_path, random_weights, tiny(diffusion_steps=6))
    (tmp_path / "file").write_text("")
    flags = as_flags(datadir=pictures, resume_checkpoint=checkpoint, results_dir=tmp_path / "file", device="cpu")
    process = launch(["mpiexec", "-np", "2"], [sys.executable, "image_sample.py", *flags])
    out = process.finish()
    assert process.returncode == 2, out
    told = [line for line in out.strip().splitlines() if line.startswith("error:")]
    assert len(told) == 1 and told[0].startswith(f"error: cannot write to results_dir {tmp_path / 'file'}")
    assert "Traceback" not in out


def test_ranks_with_different_checkpoints_do_not_sample_together(
    pictures, random_weights, tiny, tmp_path, launch, as_flags
):
    """As where a folder is given in which a training writes, and two ranks look at different moments."""
    checkpoint = write_checkpoint(tmp_path, random_weights, tiny(diffusion_steps=6))
    (tmp_path / "later").mkdir()
    later = tmp_path / "later" / ema_name(0.9999, 60000)
    weights = torch.load(random_weights, weights_only=True)
    write_torch(str(later.parent), later.name, plain_state_dict(weights, tiny(diffusion_steps=5)))
    flags = as_flags(datadir=pictures, results_dir=tmp_path / "results", device="cpu")
    one, other = (
        [sys.executable, "image_sample.py", *flags, "--resume_checkpoint", str(path)] for path in (checkpoint, later)
    )
    process = launch(["mpiexec", "-np", "1"], [*one, ":", "-np", "1", *other])
    out = process.finish()
    assert process.returncode == 2, out
    told = [line for line in out.strip().splitlines() if line.startswith("error:")]
    assert len(told) == 1 and f"the checkpoint ({checkpoint.name}, " in told[0] and f"; {later.name}, " in told[0]
    assert not (tmp_path / "results").exists()
