"""The README's commands, as they stand there, in their order: from phantoms to a segmentation judged.

Only sizes are changed, by the table below, whose entries must all be found.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data_preparation", "semantic_diffusion_model", "echo_segmentation")
TINY = "--img_size 32 --num_channels 32 --channel_mult 1,2 --num_res_blocks 1 --attention_resolutions 16"
SMALL_SEGMENTATION = "--img-size 64 --num-workers 0 --gpu cpu"
SMALLER = {
    "--n_patients 40": "--n_patients 10 --size 64 --num_workers 0",
    "--save_folder_path ./data/views": "--save_folder_path ./data/views --save_img_size 32 --num_workers 0",
    "--save_folder ./data/sector": "--save_folder ./data/sector --num_workers 0",
    "--save_folder ./data/augmented": "--save_folder ./data/augmented --n_repeat 1 --num_workers 0",
    "mpiexec -np 8": "mpiexec -np 2",
    "--savedir ../output/diffusion": "--savedir ../output/published --num_workers 0 --device cpu",
    "--batch_size_train 12": "--batch_size_train 1",
    "--lr_anneal_steps 50000": "--lr_anneal_steps 2",
    "--img_size 256": f"{TINY} --num_head_channels 32",
    "--img_size 64 --num_channels 32 --channel_mult 1,1,2 --num_res_blocks 1 --attention_resolutions 16": TINY,
    "--lr_anneal_steps 900": "--lr_anneal_steps 2 --num_workers 0 --preview_steps 0 --device cpu",
    "--num_samples 480": "--num_samples 16 --device cpu",
    "--output_dir ./evaluation": "--output_dir ./evaluation --bootstrap 100 --ssim_pairs 10 --device cpu",
    "--output-dir ./output/segmentation": f"--output-dir ./output/segmentation --epochs 1 {SMALL_SEGMENTATION}",
    "--output-dir ./output/test": f"--output-dir ./output/test {SMALL_SEGMENTATION}",
}


def commands() -> list[str]:
    """The README's shell commands, each on one line, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]


def test_what_make_is_asked_for_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert asked and set(asked) <= targets


@pytest.mark.launch
@pytest.mark.timeout(900)
def test_the_chain_goes_through_as_it_stands(tmp_path):
    for folder in FOLDERS:  # what lies beside them is written to
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = "\n".join(command for command in commands() if not command.startswith("make "))
    for wanted, smaller in SMALLER.items():
        assert wanted in script, f"README.md has no {wanted}"
        script = script.replace(wanted, smaller, 1)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    shell = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / "output/published/model000002.pt").is_file()
    assert len(list((tmp_path / "results/samples").glob("*.png"))) == 16
    for made in ("results/preview.png", "evaluation/evaluation.md", "output/segmentation/model.pth"):
        assert (tmp_path / made).is_file(), made
    assert (tmp_path / "output/test/metrics.csv").read_text().count("\n") > 1
