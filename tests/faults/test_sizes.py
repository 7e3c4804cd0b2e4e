"""Folders and tables that are large: how long a start takes, and how much memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from launching import FOLDERS, NETWORK, words_of
from PIL import Image

from guided_diffusion.sampling import results as sampling_results
from guided_diffusion.sampling.results import Results, Row, settle

MANY = 20_000


def make_pairs(folder: Path, count: int, size: int = 32) -> Path:
    """`count` pairs of pictures by name: a few files, each under many names."""
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for first in range(min(count, 16)):
            pixels = generator.integers(0, 5, (size // 4, size // 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            source = folder / kind / f"p{first}.png"
            Image.fromarray(pixels * (40 if kind == "images" else 1)).save(source)
            for place in range(first + 16, count, 16):
                os.link(source, folder / kind / f"p{place}.png")
    return folder


def cost_of_a_step(datadir: Path, savedir: Path) -> tuple[float, float, float]:
    """Seconds of processor time, seconds, and megabytes at most, of a training of one step, from start to end."""
    flags = words_of(**NETWORK | {"img_size": 32, "attention_resolutions": "16"}, datadir=datadir, savedir=savedir)
    flags += words_of(dataset_mode="folder", num_workers=0, lr_anneal_steps=1, preview_steps=0)
    words = [sys.executable, "image_train.py", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    process = subprocess.Popen(words, cwd=FOLDERS["semantic_diffusion_model"], env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_of_many_pairs_starts_soon_and_small(tmp_path, survived):
    """Judged by processor time, which another load of the machine does not change (much)."""
    survived(f"{MANY} pairs", "starts within 20 s and 300 MB of a start with 16")
    few = cost_of_a_step(make_pairs(tmp_path / "few", 16), tmp_path / "out_few")
    many = cost_of_a_step(make_pairs(tmp_path / "many", MANY), tmp_path / "out_many")
    for name, (processor, elapsed, memory) in (("16", few), (str(MANY), many)):
        print(f"{name} pairs: {processor:.1f} s of processor time, {elapsed:.1f} s, {memory:.0f} MB")
    assert many[0] - few[0] < 20
    assert many[2] - few[2] < 300


def test_a_long_manifest_is_checked_soon(tmp_path, survived):
    survived("a manifest of 100,000 rows", "checked within 10 s of processor time")
    rows = [row(i) for i in range(100_000)]
    (tmp_path / "manifest.csv").write_bytes(sampling_results._to_csv(rows))
    for kind in ("samples", "labels", "labels_visible", "combined"):
        (tmp_path / kind).mkdir()
        for one in rows[:100]:
            (tmp_path / kind / f"{one.stem}.png").touch()
    began = time.process_time()
    missing = settle(Results(str(tmp_path), 0), rows, overwrite=False)
    assert time.process_time() - began < 10
    assert missing == [one.stem for one in rows[100:]]
    assert len(Results(str(tmp_path), 0).made()) == 100


def row(i: int) -> Row:
    how = ("ddpm", 1000, "published", "", 0.0, 1.0, True, False, 256, "bf16", "cuda")
    weights = ("/runs/ema.pt", "b" * 64, "c" * 16)
    return Row(f"p{i}", f"/data/sector_annotations/training/p{i}.png", "a" * 64, i, 0, 0, *how, *weights)
