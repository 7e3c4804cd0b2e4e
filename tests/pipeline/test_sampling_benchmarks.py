"""Benchmarks of the diffusion model run through, on the shipped network and label maps of its size."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def test_few_steps_are_compared_with_more(tmp_path):
    folder = tmp_path / "sector_annotations" / "training"
    folder.mkdir(parents=True)
    y, x = np.mgrid[:64, :64]
    labels = np.where(abs(x - 32) < 0.8 * y, 2, 0)
    labels[20:40, 26:38] = 1
    Image.fromarray(labels.astype(np.uint8)).save(folder / "one.png")
    log = tmp_path / "log.txt"
    command = [sys.executable, str(ROOT / "benchmarks" / "few_steps.py"), "--datadir", str(tmp_path), "--images", "1"]
    subprocess.run([*command, "--steps", "3", "--many", "6", "--log", str(log)], check=True, capture_output=True)
    text = log.read_text()
    for sampler, spacings in (("ddim", 3), ("dpmpp_2m", 3), ("unipc", 3), ("ddpm", 3), ("dpmpp_2m_sde", 3)):
        rows = re.findall(
            rf"^{sampler} +(?:even|logsnr|karras) .*\d$|^{sampler} +(?:even|logsnr|karras) .*\)$", text, re.M
        )
        assert len(rows) >= spacings, sampler
    # UniPC in three steps of log-SNR against six: another image, but of the same heart.
    error = float(re.search(r"^unipc +logsnr +([\d.]+) \(", text, re.M)[1])
    assert 0 < error < 60


def two_frames(folder):
    """One frame of noise to train on, one to validate with."""
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for name, highest in (("images", 256), ("sector_annotations", 5)):
            (folder / name / split).mkdir(parents=True)
            image = Image.fromarray(rng.integers(0, highest, (32, 32), dtype=np.uint8))
            image.save(folder / name / split / f"p1_2CH_ED_{split}.png")


@pytest.mark.slow
@pytest.mark.launch
def test_a_training_from_weights_is_set_beside_one_from_scratch(tmp_path):
    """Both at another size than the weights': what fits is taken, and helps within two steps."""
    two_frames(tmp_path / "data")
    weights, log = ROOT / "pipelines/demo_checkpoint/ema.pt", tmp_path / "log.txt"
    command = [sys.executable, str(ROOT / "benchmarks" / "transfer.py"), "--datadir", str(tmp_path / "data")]
    flags = [
        "--img_size",
        "32",
        "--lr_anneal_steps",
        "2",
        "--weights",
        str(weights),
        "--savedir",
        str(tmp_path / "out"),
    ]
    done = subprocess.run([*command, *flags, "--log", str(log)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = re.findall(r"^ +(\d) +(\d\.\d{5}) +(\d\.\d{5})$", log.read_text(), re.M)
    assert [row[0] for row in rows] == ["1", "2"] and all(scratch != started for _, scratch, started in rows)
    assert "starting at step 0 from the weights in" in (tmp_path / "out/started_32_2_0.001/log.txt").read_text()
    again = subprocess.run([*command, *flags, "--log", str(log)], capture_output=True, text=True)
    assert again.returncode == 0 and log.read_text().count("is reached from these weights") == 1
    refused = subprocess.run(
        [*command, *flags[:-4], "--weights", "no.pt", "--savedir", "x"], capture_output=True, text=True
    )
    assert refused.returncode == 2 and "weights no.pt is no file" in refused.stderr


@pytest.mark.slow
@pytest.mark.launch
def test_averages_of_many_lengths_are_made_of_one_training(tmp_path):
    two_frames(tmp_path / "data")
    log = tmp_path / "log.txt"
    command = [sys.executable, str(ROOT / "benchmarks" / "average_lengths.py"), "--datadir", str(tmp_path / "data")]
    flags = ["--savedir", str(tmp_path / "out"), "--img_size", "32", "--lr_anneal_steps", "36", "--log", str(log)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for step in (12, 36):
        table = log.read_text().split(f"step {step} ")[1].split("\n\n")[0]
        rows = dict(re.findall(r"^(the weights|(?:decay|width) [\d.]+) +(\d[\d. ]+\d)(?= |$|%)", table, re.M))
        assert len(rows) == 10
        errors = {name: [float(word) for word in row.split()[:7]] for name, row in rows.items()}
        # The shortest average is nearest to the weights themselves.
        distance = {name: np.abs(np.log(np.divide(e, errors["the weights"]))).sum() for name, e in errors.items()}
        assert distance["width 0.03"] < distance["width 0.1"] < distance["width 0.2"]
