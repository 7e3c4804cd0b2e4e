"""Steps of training and of sampling are queued without waiting for the device: for no value, and for no size."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from guided_diffusion.data.batches import BatchSource
from guided_diffusion.data.datasets import find_pairs
from guided_diffusion.data.loading import Examples
from guided_diffusion.network.from_settings import build_diffusion, build_network
from guided_diffusion.process.random_streams import normal, stream
from guided_diffusion.runs import distributed
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.samplers import sample
from guided_diffusion.training.loop import fit_into_memory
from guided_diffusion.training.reporting import progress_row
from guided_diffusion.training.run import TrainingRun
from guided_diffusion.training.update import update

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique", "repeat_interleave")
# Whatever is read on the device to decide about a step is on.
SETTINGS = {
    "batch_size_train": 4,
    "microbatch": 3,
    "schedule_sampler": "loss-second-moment",
    "dropout": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "drop_rate": 0.3,
}


class RefusesToWait(TorchDispatchMode):
    """Raises where the host needs to know what a tensor holds, for which it would have to wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket._qualified_op_name.removeprefix("aten::")
        sizes_are_known = (kwargs or {}).get("output_size") is not None
        if name in WAITING and not sizes_are_known:
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def refusing_to_wait(device):
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with RefusesToWait():
            yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to wait for")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])


@pytest.mark.parametrize("modulation", ["table", "dense"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_step_never_waits_for_the_device(tiny, device, modulation):
    settings = tiny(device=device, modulation=modulation, **SETTINGS)
    world = distributed.start(device)
    examples = Examples(find_pairs(settings, ["training"]), settings)
    run = TrainingRun(settings, world, examples, None)
    fit_into_memory(run)
    source = BatchSource(examples, settings, world, 0, run.microbatch_size)
    update(run, run.network, source.next_step())  # compiles, and looks for the best convolutions
    steps = [source.next_step() for _ in range(2)]  # the loader's own work, on the CPU
    with refusing_to_wait(device):
        for microbatches in steps:
            update(run, run.network, microbatches)
    assert run.step == 3
    with pytest.raises(AssertionError, match="waits"), RefusesToWait():
        progress_row(run)  # a line of the log does


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_sampling_never_waits_for_a_value(tiny, sampler):
    """On a CPU alone: a batch begins with copies to the device, for which CUDA's own check would stop it."""
    settings = tiny()
    examples = Examples(find_pairs(settings, ["training"]), settings)
    network, condition = build_network(settings).eval(), examples.condition([0, 1])
    denoiser = Denoiser(network, build_diffusion(settings), condition, s=2.0)
    generators = [stream("cpu", 0, "sample", i) for i in range(2)]
    noise = normal(generators, (3, 16, 16))
    with RefusesToWait():
        images = sample(sampler, denoiser, noise, [0, 300, 600, 999], generators)
    assert images.shape == (2, 3, 16, 16)
