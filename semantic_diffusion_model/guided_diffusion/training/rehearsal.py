"""The first step, rehearsed without an update: what does not fit shows itself before any rank waits for another."""

import torch

from guided_diffusion.runs.world import AgreedError
from guided_diffusion.training.run import TrainingRun
from guided_diffusion.training.update import weighted_losses
from out_of_memory import is_out_of_memory, said_by


def rehearse(run: TrainingRun, recompute: bool) -> bool:
    """Halve `run.microbatch_size`, on all ranks, until a step with so many images fits on each; return `recompute`.

    Where a single image does not fit, its activations are recomputed if the settings leave that open. Dropout draws its
    numbers for all images at once: with it nothing is halved. Raises AgreedError if a step cannot be made to fit.
    """
    settings = run.settings
    while any(problems := run.world.gather_objects(_problem(run))):
        if run.microbatch_size > 1 and not settings.dropout:
            run.microbatch_size = -(-run.microbatch_size // 2)
        elif settings.use_checkpoint == "auto" and not recompute:
            recompute = True
            run.network.recompute(True)
        else:
            raise AgreedError(
                f"the GPU has not enough memory for a step with {run.microbatch_size} images ({max(problems)}): "
                "take a smaller --batch_size_train or network, --use_checkpoint True, or --device cpu"
            )
    return recompute


def _problem(run: TrainingRun) -> str:
    """What is said where forward and backward pass of a part of a batch do not fit beside what the optimiser will need;
    nothing where they do."""
    indices = [index % len(run.examples) for index in range(run.microbatch_size)]
    device = run.world.device
    try:
        to_come = run.optimiser.bytes_to_come() - sum(parameter.nbytes for parameter in run.network.parameters())
        for parameter in run.network.parameters():  # as from the second part of a batch on: activations come on top
            parameter.grad = torch.zeros_like(parameter)
        reserved = torch.empty(max(0, to_come), dtype=torch.uint8, device=device)
        microbatch = run.examples.microbatch(indices, training=True).to(device)
        _, losses, _ = weighted_losses(run, run.network.train(), microbatch)
        losses["loss"].sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        del reserved
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        problem = said_by(error)
    else:
        problem = ""
    for parameter in run.network.parameters():
        parameter.grad = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return problem
