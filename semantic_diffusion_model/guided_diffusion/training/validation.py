"""The loss on the validation images, at noise and timesteps that never change, so that checkpoints compare."""

from collections.abc import Callable, Sequence

import torch

from guided_diffusion.data.loading import Examples, Microbatch
from guided_diffusion.network.precision import predictor
from guided_diffusion.process.random_streams import normal, stream
from guided_diffusion.training.run import TrainingRun

MOST_IMAGES = 256


def chosen(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, spread evenly, the first included."""
    most = min(count, most)
    return [i * count // most for i in range(most)]


def validate(run: TrainingRun, examples: Examples, alive: Callable[[], object] = lambda: None) -> dict[str, float]:
    """Mean loss terms of the averaged weights on `examples`, as val_loss, val_mse, val_vb; each rank takes its share.

    As many images go through the network at once as in the training. Image i of n is noised to the timestep at
    (i + 1/2) / n of the process, so that all of it is covered. `alive` is called after each batch. Raises AgreedError,
    on all ranks, where images cannot be read or the memory is full.
    """
    indices = chosen(len(examples), MOST_IMAGES)
    totals = run.world.fail_together(_own_sums, run, examples, indices, alive)
    # A rank may have had no image: every rank must send the same sums.
    names = sorted(set().union(*run.world.gather_objects(sorted(totals))))
    zero = torch.zeros((), dtype=torch.float64, device=run.world.device)
    sums = run.world.all_reduce(torch.stack([totals.get(name, zero) for name in names]))
    return {f"val_{name}": float(value) / len(indices) for name, value in zip(names, sums, strict=True)}


@torch.no_grad()
def _own_sums(
    run: TrainingRun, examples: Examples, indices: Sequence[int], alive: Callable[[], object]
) -> dict[str, torch.Tensor]:
    """Of this rank's share of the images, each loss term added up."""
    run.network.eval()
    ranked = run.world.share(list(enumerate(indices)))
    totals: dict[str, torch.Tensor] = {}
    with run.averages.applied():
        for start in range(0, len(ranked), run.microbatch_size):
            part = ranked[start : start + run.microbatch_size]
            microbatch = examples.microbatch([index for _, index in part]).to(run.world.device)
            t = torch.tensor([(2 * i + 1) * run.diffusion.num_timesteps // (2 * len(indices)) for i, _ in part])
            losses = _losses(run, microbatch, t.to(run.world.device), [i for i, _ in part])
            for name, values in losses.items():
                totals[name] = totals.get(name, 0) + values.double().sum()
            alive()
    return totals


def _losses(
    run: TrainingRun, microbatch: Microbatch, t: torch.Tensor, positions: Sequence[int]
) -> dict[str, torch.Tensor]:
    x_start = microbatch.x_start()
    generators = [stream(x_start.device, run.settings.seed, "validation", position) for position in positions]
    noise = normal(generators, x_start.shape[1:])
    denoise = predictor(run.network, microbatch.condition, run.precision)
    return run.diffusion.training_losses(denoise, x_start, t, noise)
