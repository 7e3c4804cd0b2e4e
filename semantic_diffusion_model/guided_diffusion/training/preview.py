"""A grid of label maps, samples drawn from the averaged weights in few steps, and real images."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from guided_diffusion.data import pictures
from guided_diffusion.data.description import palette_of
from guided_diffusion.data.loading import Examples
from guided_diffusion.network.precision import autocast
from guided_diffusion.process.random_streams import normal, stream
from guided_diffusion.process.timesteps import few_timesteps
from guided_diffusion.runs import storage
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.plan import FEW_STEPS_SAMPLER, FEW_STEPS_SPACING
from guided_diffusion.sampling.samplers import sample
from guided_diffusion.training.run import TrainingRun
from guided_diffusion.training.validation import chosen

COLUMNS = 8


def draw_preview(run: TrainingRun, examples: Examples, alive: Callable[[], object] = lambda: None) -> np.ndarray:
    """[3 H, n W, 3] uint8 on every rank: label, sample by the averaged weights, and real image of n examples, the same
    n at each call.

    The ranks share the work; the noise of an image depends on the seed and its place alone. `alive` is called after
    each column. Raises AgreedError, on all ranks, where images cannot be read or the memory is full.
    """
    own = run.world.fail_together(_own_columns, run, examples, alive)
    gathered = [column for part in run.world.gather_objects(own) for column in part]
    return np.concatenate([column for _, column in sorted(gathered, key=lambda item: item[0])], axis=1)


@torch.no_grad()
def _own_columns(run: TrainingRun, examples: Examples, alive: Callable[[], object]) -> list[tuple[int, np.ndarray]]:
    """This rank's columns, each with its place."""
    run.network.eval()
    columns = []
    with run.averages.applied():
        for place, index in run.world.share(list(enumerate(chosen(len(examples), COLUMNS)))):
            columns.append((place, _column(run, examples, place, index)))
            alive()
    return columns


def _column(run: TrainingRun, examples: Examples, place: int, index: int) -> np.ndarray:
    settings, diffusion, device = run.settings, run.diffusion, run.world.device
    image, label, _ = examples.get(index)
    condition = examples.condition([index])
    if condition is not None:
        condition = condition.to(device)
    noise = normal([stream(device, settings.seed, "preview", place)], image.shape)
    steps = min(settings.preview_steps, diffusion.num_timesteps)
    visited = few_timesteps(diffusion.alphas_cumprod, steps, FEW_STEPS_SPACING)
    timesteps = diffusion.timesteps[visited].tolist()  # of the full process: with a respacing, those that are trained
    with autocast(run.precision, device):
        drawn = sample(FEW_STEPS_SAMPLER, Denoiser(run.network, diffusion, condition), noise, timesteps)[0]
    drawn = pictures.to_uint8(drawn.float().cpu().numpy())
    if settings.dataset_mode == "camus" or settings.image_channels == 1:  # as image_sample.py writes it
        drawn = pictures.to_grey(drawn)
    return pictures.stack(
        [pictures.colour(label.numpy(), palette_of(settings)), drawn, image.numpy().transpose(1, 2, 0)]
    )


def write_preview(path: str, grid: np.ndarray) -> None:
    storage.write_whole(path, lambda temporary: Image.fromarray(grid).save(temporary, format="PNG"))
