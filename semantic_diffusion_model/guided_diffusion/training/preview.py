"""A grid of label maps, samples drawn from the averaged weights in few steps, and real images."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import nn

from config import Settings
from guided_diffusion.data import pictures
from guided_diffusion.data.description import palette_of
from guided_diffusion.data.loading import Examples
from guided_diffusion.network.precision import autocast
from guided_diffusion.process.diffusion import GaussianDiffusion
from guided_diffusion.process.random_streams import normal, stream
from guided_diffusion.process.timesteps import few_timesteps
from guided_diffusion.runs import storage
from guided_diffusion.runs.world import World
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.plan import FEW_STEPS_SAMPLER, FEW_STEPS_SPACING
from guided_diffusion.sampling.samplers import sample
from guided_diffusion.training.validation import chosen

COLUMNS = 8


@torch.no_grad()
def draw_preview(
    network: nn.Module,
    diffusion: GaussianDiffusion,
    examples: Examples,
    settings: Settings,
    world: World,
    precision: str,
    alive: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """[3 H, n W, 3] uint8 on every rank: label, sample and real image of n examples, the same n at each call.

    The ranks share the work; the noise of an image depends on the seed and its place alone. `alive` is called after
    each column.
    """
    network.eval()
    columns = []
    for place, index in world.share(list(enumerate(chosen(len(examples), COLUMNS)))):
        columns.append((place, _column(network, diffusion, examples, place, index, settings, world, precision)))
        alive()
    gathered = [column for part in world.gather_objects(columns) for column in part]
    return np.concatenate([column for _, column in sorted(gathered, key=lambda item: item[0])], axis=1)


def _column(
    network: nn.Module,
    diffusion: GaussianDiffusion,
    examples: Examples,
    place: int,
    index: int,
    settings: Settings,
    world: World,
    precision: str,
) -> np.ndarray:
    image, label, _ = examples.get(index)
    condition = examples.condition([index])
    if condition is not None:
        condition = condition.to(world.device)
    noise = normal([stream(world.device, settings.seed, "preview", place)], image.shape)
    steps = min(settings.preview_steps, diffusion.num_timesteps)
    visited = few_timesteps(diffusion.alphas_cumprod, steps, FEW_STEPS_SPACING)
    timesteps = diffusion.timesteps[visited].tolist()  # of the full process: with a respacing, those that are trained
    with autocast(precision, world.device):
        drawn = sample(FEW_STEPS_SAMPLER, Denoiser(network, diffusion, condition), noise, timesteps)[0]
    drawn = pictures.to_uint8(drawn.float().cpu().numpy())
    if settings.dataset_mode == "camus" or settings.image_channels == 1:  # as image_sample.py writes it
        drawn = pictures.to_grey(drawn)
    return pictures.stack(
        [pictures.colour(label.numpy(), palette_of(settings)), drawn, image.numpy().transpose(1, 2, 0)]
    )


def write_preview(path: str, grid: np.ndarray) -> None:
    storage.write_whole(path, lambda temporary: Image.fromarray(grid).save(temporary, format="PNG"))
