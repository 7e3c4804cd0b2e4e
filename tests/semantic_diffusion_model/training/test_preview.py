"""The picture at each save: what it shows, and which timesteps it visits."""

from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.sampling.samplers import sample
from guided_diffusion.training.loop import train


def test_a_preview_shows_labels_samples_and_real_images(tmp_path, tiny, random_weights):
    changes = {"preview_steps": 3, "lr_anneal_steps": 2, "save_interval": 1, "timestep_respacing": "ddim25"}
    train(tiny(savedir=str(tmp_path), resume_checkpoint=str(random_weights), **changes), set())
    grids = [np.asarray(Image.open(tmp_path / f"preview_00000{step}.png")) for step in (1, 2)]
    assert grids[0].shape == (3 * 16, 5 * 16, 3)  # the five validation images
    assert np.array_equal(grids[0][:16], grids[1][:16]) and np.array_equal(grids[0][32:], grids[1][32:])
    assert not np.array_equal(grids[0][16:32], grids[1][16:32])
    real = np.asarray(Image.open(Path(tiny().datadir) / "images/validation/v1.png"))
    assert np.array_equal(grids[0][32:, :16, 0], real)


def test_a_preview_visits_timesteps_that_were_trained(tmp_path, tiny, random_weights, monkeypatch):
    """With a respacing, the timesteps of the full process that it keeps, not their places among them."""
    visited = []

    def noting(name, denoiser, noise, timesteps, *rest):
        visited.append(timesteps)
        return sample(name, denoiser, noise, timesteps, *rest)

    monkeypatch.setattr("guided_diffusion.training.preview.sample", noting)
    changes = {"preview_steps": 5, "lr_anneal_steps": 1, "save_interval": 1, "timestep_respacing": "ddim25"}
    train(tiny(savedir=str(tmp_path), resume_checkpoint=str(random_weights), **changes), set())
    assert len(visited) == 5
    for timesteps in visited:
        assert len(timesteps) == 5 and set(timesteps) <= set(range(0, 1000, 40))
        assert (timesteps[0], timesteps[-1]) == (40, 960)
