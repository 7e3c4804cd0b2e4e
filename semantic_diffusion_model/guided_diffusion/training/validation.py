"""The loss on the validation images, at noise and timesteps that never change, so that checkpoints compare."""

from collections.abc import Callable

import torch
from torch import nn

from config import Settings
from guided_diffusion.data.loading import Examples, Microbatch
from guided_diffusion.network.precision import predictor
from guided_diffusion.process.diffusion import GaussianDiffusion
from guided_diffusion.process.random_streams import normal, stream
from guided_diffusion.runs.world import World

MOST_IMAGES = 256


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, spread evenly, the first included."""
    most = min(count, most)
    return [i * count // most for i in range(most)]


@torch.no_grad()
def validate(
    network: nn.Module,
    diffusion: GaussianDiffusion,
    examples: Examples,
    settings: Settings,
    world: World,
    precision: str,
    batch: int,
    alive: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Mean loss terms, as val_loss, val_mse, val_vb, over the validation images; each rank computes its share.

    `batch` images go through the network at once. Image i of n is noised to the timestep at (i + 1/2) / n of the
    process, so that all of it is covered. `alive` is called after each batch.
    """
    network.eval()
    indices = chosen(len(examples), MOST_IMAGES)
    ranked = world.share(list(enumerate(indices)))
    totals: dict[str, torch.Tensor] = {}
    for start in range(0, len(ranked), batch):
        part = ranked[start : start + batch]
        microbatch = examples.microbatch([index for _, index in part]).to(world.device)
        t = torch.tensor([(2 * i + 1) * diffusion.num_timesteps // (2 * len(indices)) for i, _ in part])
        losses = _losses(network, diffusion, microbatch, t.to(world.device), [i for i, _ in part], settings, precision)
        for name, values in losses.items():
            totals[name] = totals.get(name, 0) + values.double().sum()
        alive()
    # A rank may have had no image: every rank must send the same sums.
    names = sorted(set().union(*world.gather_objects(sorted(totals))))
    zero = torch.zeros((), dtype=torch.float64, device=world.device)
    sums = world.all_reduce(torch.stack([totals.get(name, zero) for name in names]))
    return {f"val_{name}": float(value) / len(indices) for name, value in zip(names, sums, strict=True)}


def _losses(
    network: nn.Module,
    diffusion: GaussianDiffusion,
    microbatch: Microbatch,
    t: torch.Tensor,
    positions: list[int],
    settings: Settings,
    precision: str,
) -> dict[str, torch.Tensor]:
    x_start = microbatch.x_start()
    generators = [stream(x_start.device, settings.seed, "validation", position) for position in positions]
    noise = normal(generators, x_start.shape[1:])
    return diffusion.training_losses(predictor(network, microbatch.condition, precision), x_start, t, noise)
