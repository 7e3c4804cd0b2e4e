"""A checkpoint to sample from, and image_sample.py run in this process."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

import image_sample
from config import Settings
from guided_diffusion.runs import distributed, launch
from guided_diffusion.runs.checkpoints import ema_name, plain_state_dict, write_torch
from guided_diffusion.sampling import job as sampling

sys.path.append(str(Path(__file__).parent))  # for sampled_images


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny, random_weights) -> Path:
    """The averaged weights of a training of ours: the settings of the network in the file."""
    folder = tmp_path_factory.mktemp("trained")
    weights = torch.load(random_weights, weights_only=True)
    write_torch(str(folder), ema_name(0.9999, 50000), plain_state_dict(weights, tiny(diffusion_steps=50)))
    return folder / "ema_0.9999_050000.pt"


@pytest.fixture
def command(checkpoint, pictures, as_flags, capsys, tmp_path):
    """Run image_sample.py with changes; gives (exit code, standard output, standard error)."""

    def run(**changes) -> tuple[int, str, str]:
        common = {"datadir": pictures, "resume_checkpoint": checkpoint, "results_dir": tmp_path / "results"}
        flags = common | {"num_samples": 0, "num_steps": 3, "device": "cpu"} | changes
        words = as_flags(**{name: value for name, value in flags.items() if value is not None})
        code = launch.run(image_sample.main, Settings, args=words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def complete(tmp_path_factory, checkpoint, pictures):
    """One image for each label map, in 3 steps."""
    folder = tmp_path_factory.mktemp("complete")
    settings = Settings(datadir=str(pictures), resume_checkpoint=str(checkpoint), results_dir=str(folder))
    settings = dataclasses.replace(settings, num_samples=0, num_steps=3, device="cpu")
    sampling.run_sampling(settings, set(), distributed.start("cpu"))
    return folder
