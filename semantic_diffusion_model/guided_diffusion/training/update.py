"""One step of a training: gradients of this rank's images, averaged over all ranks, and the update of the weights."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from guided_diffusion.data.loading import Microbatch
from guided_diffusion.network.precision import predictor
from guided_diffusion.process.random_streams import normal, seed_of, stream, uniform
from guided_diffusion.training.optimisation import average_gradients, learning_rate
from guided_diffusion.training.run import TrainingRun


def parallel_network(run: TrainingRun, one: Microbatch) -> torch.nn.Module:
    """The network as `update` calls it: averaging its gradients over ranks by itself, where that is asked for.

    `one`: an example, the same on all ranks.
    """
    if run.world.size == 1 or not run.settings.distributed_data_parallel:
        return run.network
    network = DistributedDataParallel(run.network, gradient_as_bucket_view=True)
    # After its first backward pass it sorts the gradients into other buckets, and the sums of three ranks or more are
    # rounded by bucket. So that pass is one without a step: otherwise a resumed run would round its first step anew.
    network.train()
    t = torch.zeros(len(one), dtype=torch.int64, device=one.image.device)
    predictor(network, one.condition, run.precision)(one.x_start(), t).sum().backward()
    run.optimiser.adamw.zero_grad(set_to_none=False)
    return network


def update(
    run: TrainingRun,
    network: torch.nn.Module,
    microbatches: Sequence[Microbatch],
    alive: Callable[[], object] = lambda: None,
) -> None:
    """Take `run` one step further, with the images in `microbatches`; `network` as `parallel_network` gave it.

    `alive` is called after each part of the batch.
    """
    settings, world = run.settings, run.world
    network.train()
    if settings.dropout:
        torch.manual_seed(seed_of(settings.seed, "dropout", run.step, world.rank))
    drawn = []
    for number, microbatch in enumerate(microbatches, start=1):
        last = number == len(microbatches)
        with nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync():
            t, losses, weights = weighted_losses(run, network, microbatch)
            # A loss that is not finite must make the gradient so too, on all ranks, and so have the step skipped.
            nan_unless_finite = torch.where(losses["loss"].isfinite(), 1.0, torch.nan)
            weighed = losses["loss"] * weights if run.timesteps.unbiased else losses["loss"]
            loss = (weighed * nan_unless_finite).sum() / settings.batch_size_train
            run.optimiser.backward(loss)
        run.statistics.add_losses(losses, t, weights)
        drawn.append((t, losses["loss"].detach()))
        alive()
    if world.size > 1 and not settings.distributed_data_parallel:
        average_gradients(run.network.parameters(), world.size)
    norm = run.optimiser.step(learning_rate(run.step, settings))
    if world.is_main:  # the same on all ranks: told once, sums do not depend on their number
        run.statistics.add_gradient_norm(norm)
    run.averages.update()
    if settings.schedule_sampler == "loss-second-moment":
        t, loss = (torch.cat(values) for values in zip(*drawn, strict=True))
        run.timesteps.update(world.all_gather(t), world.all_gather(loss))
    run.step += 1
    run.samples += settings.batch_size_train * world.size


def weighted_losses(
    run: TrainingRun, network: torch.nn.Module, microbatch: Microbatch
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Timesteps [N], loss terms [N] each, and their weights [N]; noise and timesteps depend on (seed, sample) alone."""
    x_start = microbatch.x_start()
    first = microbatch.first
    streams = [stream(x_start.device, run.settings.seed, "diffuse", first + i) for i in range(len(microbatch))]
    t, weights = run.timesteps.draw(uniform(streams))
    noise = normal(streams, x_start.shape[1:])
    predict = predictor(network, microbatch.condition, run.precision)
    return t, run.diffusion.training_losses(predict, x_start, t, noise), weights
