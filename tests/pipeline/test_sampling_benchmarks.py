"""The benchmark of few steps runs through, on the shipped network and label maps of its size."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
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
