"""A grid of label maps, samples drawn from the averaged weights in few steps, and real images."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from config import Settings
from guided_diffusion import storage
from guided_diffusion.denoiser import Denoiser
from guided_diffusion.diffusion import GaussianDiffusion
from guided_diffusion.loading import Examples
from guided_diffusion.optimisation import autocast
from guided_diffusion.random_streams import normal, stream
from guided_diffusion.samplers import sample
from guided_diffusion.timesteps import even_timesteps
from guided_diffusion.validation import chosen
from guided_diffusion.world import World

COLUMNS = 8
# Okabe and Ito's palette, whose colours colour-blind readers tell apart, on black for class 0.
PALETTE = np.array(
    [
        (0, 0, 0),
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    dtype=np.uint8,
)


@torch.no_grad()
def draw_preview(
    network: nn.Module,
    diffusion: GaussianDiffusion,
    examples: Examples,
    settings: Settings,
    world: World,
    precision: str,
) -> np.ndarray:
    """[3 H, n W, 3] uint8 on every rank: label, sample and real image of n examples, the same n at each call.

    The ranks share the work; the noise of an image depends on the seed and its place alone.
    """
    network.eval()
    places = list(enumerate(chosen(len(examples), COLUMNS)))
    columns = [
        (place, _column(network, diffusion, examples, place, index, settings, world, precision))
        for place, index in world.share(places)
    ]
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
    timesteps = even_timesteps(diffusion.num_timesteps, min(settings.preview_steps, diffusion.num_timesteps))
    with autocast(precision, world.device):
        drawn = sample("dpmpp_2m", Denoiser(network, diffusion, condition), noise, timesteps)[0]
    drawn = ((drawn.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    rows = PALETTE[label.numpy() % len(PALETTE)], drawn.transpose(1, 2, 0), image.numpy().transpose(1, 2, 0)
    return np.concatenate(rows, axis=0)


def write_preview(path: str, grid: np.ndarray) -> None:
    storage.write_whole(path, lambda temporary: Image.fromarray(grid).save(temporary, format="PNG"))
