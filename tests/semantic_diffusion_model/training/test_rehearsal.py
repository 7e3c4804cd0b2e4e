"""What does not fit into a GPU's memory is found out before the first step, and halved on all ranks at once."""

import re
import sys

import pytest
import torch

from command import UserError
from guided_diffusion.data.datasets import find_pairs
from guided_diffusion.data.loading import Examples
from guided_diffusion.network import modulation, modulation_plain
from guided_diffusion.network.precision import predictor
from guided_diffusion.runs.world import AgreedError, World
from guided_diffusion.training import loop
from guided_diffusion.training.rehearsal import rehearse
from guided_diffusion.training.run import TrainingRun


@pytest.fixture
def run(tiny):
    def make(**changes):
        settings = tiny(batch_size_train=5, **changes)
        run = TrainingRun(settings, World(), Examples(find_pairs(settings, ["training"]), settings), None)
        run.microbatch_size = 5
        return run

    return make


def fill_above(network, images, kept=None):
    """Have `network` run out of memory with more than `images` images, or `kept` where activations are kept."""

    def check(module, inputs):
        recomputing = any(getattr(block, "use_checkpoint", False) for block in network.modules())
        if len(inputs[0]) > (images if recomputing or kept is None else kept):
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    network.register_forward_pre_hook(check)


def test_images_are_halved_until_they_fit_and_nothing_is_left_behind(run):
    one = run(use_checkpoint=False)
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    fill_above(one.network, 2)
    assert rehearse(one, recompute=False) is False
    assert one.microbatch_size == 2  # 5, 3, 2
    assert all(parameter.grad is None for parameter in one.network.parameters())
    assert all(torch.equal(before[name], value) for name, value in one.network.state_dict().items())
    assert (one.step, one.samples) == (0, 0)


def test_gradients_are_there_while_activations_are_made(run):
    """As from the second part of a batch on, where the peak is: not only as the backward pass comes to each."""
    one, there = run(use_checkpoint=False), []
    one.network.register_forward_hook(
        lambda *_: there.append(all(p.grad is not None for p in one.network.parameters()))
    )
    rehearse(one, recompute=False)
    assert there == [True]


def test_a_single_image_that_does_not_fit_is_recomputed_where_that_is_open(run):
    one = run(use_checkpoint="auto")
    fill_above(one.network, 1, kept=0)
    assert rehearse(one, recompute=False) is True and one.microbatch_size == 1
    other = run(use_checkpoint=False)
    fill_above(other.network, 1, kept=0)
    with pytest.raises(AgreedError, match="not enough memory for a step with 1 images .CUDA error: CUBLAS"):
        rehearse(other, recompute=False)


def test_with_dropout_nothing_is_halved(run):
    one = run(use_checkpoint=False, dropout=0.1)
    fill_above(one.network, 2)
    with pytest.raises(AgreedError, match="with 5 images"):
        rehearse(one, recompute=False)


def test_other_errors_are_not_taken_for_full_memory(run):
    one = run(use_checkpoint=False)
    one.network.register_forward_pre_hook(lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        rehearse(one, recompute=False)


def test_all_ranks_recompute_where_one_must(run, monkeypatch):
    one = run(use_checkpoint="auto")
    monkeypatch.setattr(loop, "fit_step", lambda *_: (5, False))
    monkeypatch.setattr(one.world, "gather_objects", lambda own: [own, (3, True) if isinstance(own, tuple) else own])
    assert loop.fit_into_memory(one).startswith("activations are recomputed; 3 of 5 images at once")
    assert any(getattr(block, "use_checkpoint", False) for block in one.network.modules())


@pytest.mark.parametrize("full", [torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=repr)
def test_memory_that_is_full_in_a_later_step_is_one_line(tiny, tmp_path, monkeypatch, full):
    whole = loop.update

    def full_later(run, *arguments):
        if run.step == 2:
            raise full
        whole(run, *arguments)

    monkeypatch.setattr(loop, "update", full_later)
    settings = tiny(savedir=str(tmp_path), batch_size_train=4, lr_anneal_steps=4, save_interval=2)
    with pytest.raises(UserError, match=r"^the memory was full in step 3: .*--microbatch 2.*model000002\.pt"):
        loop.train(settings, set())


class AsOnAGpu:
    """The plain form, with what the kernels of a GPU ask for."""

    forward = staticmethod(modulation_plain.forward)
    backward_passes = 0

    @classmethod
    def backward(cls, grad, x, table, level, *rest):
        if level is not None:
            assert level.plan is not None, "no plan for the backward pass"
            cls.backward_passes += 1
        return modulation_plain.backward(grad, x, table, level, *rest)


def test_each_backward_pass_before_the_first_step_has_what_a_gpu_needs(run, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(modulation, "_implementation", lambda x: AsOnAGpu)
        assert rehearse(run(modulation="table"), recompute=False) is False and AsOnAGpu.backward_passes
    examples = []

    def warm_up(run, one):
        """As `parallel_network` does on several ranks."""
        t = torch.zeros(len(one), dtype=torch.int64)
        with monkeypatch.context() as patch:
            patch.setattr(modulation, "_implementation", lambda x: AsOnAGpu)
            predictor(run.network, one.condition, run.precision)(one.x_start(), t).sum().backward()
        examples.append(one)
        return run.network

    monkeypatch.setattr(loop, "parallel_network", warm_up)
    loop.train(tiny(savedir=str(tmp_path), lr_anneal_steps=1, modulation="table"), set())
    assert len(examples) == 1


TWO = """
import sys
import torch
from config import Settings
from guided_diffusion.data.datasets import find_pairs
from guided_diffusion.data.loading import Examples
from guided_diffusion.runs import distributed
from guided_diffusion.training.rehearsal import rehearse
from guided_diffusion.training.run import TrainingRun

def main(settings, given):
    world = distributed.start("cpu")
    run = TrainingRun(settings, world, Examples(find_pairs(settings, ["training"]), settings), None)
    run.microbatch_size = 4
    if world.rank == 1:
        def full(module, inputs):
            if len(inputs[0]) > 1:
                raise torch.cuda.OutOfMemoryError()
        run.network.register_forward_pre_hook(full)
    rehearse(run, recompute=False)
    print(f"rank {world.rank}: {run.microbatch_size} at once", flush=True)

from command import parse_settings
settings = parse_settings(Settings, sys.argv[1:], "")
sys.exit(distributed.run_on_all_ranks(main, settings, set()))
"""


@pytest.mark.launch
def test_all_ranks_halve_when_one_has_too_little(launch, as_flags, tiny_changes, pictures, tmp_path):
    (tmp_path / "script.py").write_text(TWO)
    flags = as_flags(**tiny_changes | {"datadir": pictures, "batch_size_train": 4, "use_checkpoint": False})
    process = launch(["mpiexec", "-np", "2"], [sys.executable, str(tmp_path / "script.py"), *flags])
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0, out
    # The lines of two ranks may come mixed.
    assert sorted(re.findall(r"rank \d: \d+ at once", out)) == ["rank 0: 1 at once", "rank 1: 1 at once"]
