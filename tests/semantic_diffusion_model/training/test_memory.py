"""As memory demands, a batch goes through in parts and activations are recomputed: with the same result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from guided_diffusion.data.datasets import find_pairs
from guided_diffusion.data.loading import Examples
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.training import loop, memory
from guided_diffusion.training.memory import HEADROOM, activation_bytes, fit_step, left_by_limits
from guided_diffusion.training.optimisation import Optimiser

FOLDER = Path(memory.__file__).parents[2]


@pytest.fixture(scope="module")
def examples(tiny):
    return Examples(find_pairs(tiny(), ["training"]), tiny())


def test_layers_keep_their_inputs_and_no_weights(examples):
    class Layers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Conv2d(3, 7, 3, padding=1), torch.nn.Conv2d(7, 2, 1)

        def forward(self, x, t, condition):
            return self.second(self.first(x))

    assert activation_bytes(Layers(), examples.microbatch([0, 1]), "fp32") == 2 * (3 + 7) * 16 * 16 * 4


def test_what_is_kept_grows_with_the_images_and_shrinks_when_recomputed(tiny, examples):
    network = build_network(tiny(use_checkpoint=False))
    one, two = (activation_bytes(network, examples.microbatch(range(n)), "fp32") for n in (1, 2))
    assert 1.8 * one < two < 2.05 * one
    network.recompute(True)
    assert activation_bytes(network, examples.microbatch([0]), "fp32") < one / 2


def distance(one, other):
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


def needed(network, examples, images, recompute=False):
    network.recompute(recompute)
    return HEADROOM * activation_bytes(network, examples.microbatch(range(images)), "fp32")


def fit(network, examples, room, batch=6, asked=None, recompute="auto"):
    return fit_step(network, examples, batch, asked, recompute, "fp32", room)


@pytest.mark.parametrize("images", [1, 2, 3, 6])
def test_a_batch_is_cut_into_parts_that_fit(tiny, examples, images):
    """Judged by one and two images: within a few per cent of what so many need."""
    network = build_network(tiny())
    whole = needed(network, examples, images)
    assert fit(network, examples, 1.1 * whole) == (images, False)
    assert fit(network, examples, 0.9 * whole)[0] < images or images == 1


def test_parts_are_about_equal(tiny, examples):
    network = build_network(tiny())
    assert fit(network, examples, 1.1 * needed(network, examples, 4), batch=6) == (3, False)
    assert fit(network, examples, 1.1 * needed(network, examples, 6), batch=7) == (4, False)


def test_activations_are_recomputed_where_not_even_one_image_fits(tiny, examples):
    network = build_network(tiny())
    kept, recomputed = needed(network, examples, 1), needed(network, examples, 1, recompute=True)
    assert recomputed < 0.5 * kept
    assert fit(network, examples, 1.1 * recomputed) == (1, True)
    assert fit(network, examples, 0.9 * kept) == (2, True)
    assert fit(network, examples, 0.5 * recomputed) == (1, True)  # tried all the same


def test_what_was_asked_for_is_kept_to(tiny, examples):
    network = build_network(tiny())
    assert fit(network, examples, 0, asked=5, recompute=False) == (5, False)
    assert fit(network, examples, 0.9 * needed(network, examples, 5), asked=5) == (5, True)
    assert fit(network, examples, 1.1 * needed(network, examples, 5), asked=5) == (5, False)
    room = 1.1 * needed(network, examples, 2, recompute=True)
    assert fit(network, examples, room, recompute=True) == (2, True)


def test_no_more_is_tried_than_fits(tiny, examples, monkeypatch):
    tried = []
    monkeypatch.setattr(memory, "activation_bytes", lambda _, microbatch, __: tried.append(len(microbatch)) or 100)
    assert fit(build_network(tiny()), examples, 200 * HEADROOM - 1, batch=8) == (1, False)
    assert tried == [1]


def test_the_first_step_brings_gradients_and_two_averages(tiny):
    network, settings = build_network(tiny()), tiny()
    optimiser = Optimiser(network.parameters(), settings, "fp32", torch.device("cpu"))
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert optimiser.bytes_to_come() == 3 * weights
    network.out[2].weight.grad = torch.ones_like(network.out[2].weight)
    optimiser.step(1e-3)
    assert optimiser.bytes_to_come() == weights


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="what a GPU's allocator holds needs a GPU")
def test_what_is_counted_is_what_a_gpu_holds(tiny, examples):
    network = build_network(tiny(use_checkpoint=False)).cuda()
    microbatch = examples.microbatch(range(8)).to("cuda")
    counted = activation_bytes(network, microbatch, "fp32")
    t, before = torch.zeros(8, dtype=torch.int64, device="cuda"), torch.cuda.memory_allocated()
    output = network(microbatch.x_start(), t, microbatch.condition)
    held = torch.cuda.memory_allocated() - before
    assert output.requires_grad
    assert counted / HEADROOM < held < counted * HEADROOM


def test_limits_of_control_groups_of_both_versions(tmp_path):
    def group(folder, limit, used, names):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        prefix = "total_" if "limit" in names[0] else ""
        (tmp_path / folder / "memory.stat").write_text(f"anon 5\n{prefix}active_file 2\n{prefix}inactive_file 3\n")
        for name, value in zip(names, (limit, used), strict=True):
            (tmp_path / folder / name).write_text(f"{value}\n")

    second, first = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    assert left_by_limits("0::/\n", tmp_path) == float("inf")
    group("job/step", "max", 10, second)
    assert left_by_limits("0::/job/step\n", tmp_path) == float("inf")
    group("job", 100, 30, second)
    assert left_by_limits("0::/job/step\n", tmp_path) == 100 - 30 + 5
    group("memory/slurm", 90, 60, first)
    assert left_by_limits("4:memory:/slurm\n3:cpu:/other\n0::/job/step\n", tmp_path) == 90 - 60 + 5


def test_too_little_memory_for_all_at_once_trains_the_same(tiny, random_weights, tmp_path, monkeypatch):
    settings = {"resume_checkpoint": str(random_weights), "lr_anneal_steps": 2, "batch_size_train": 4}
    network = build_network(tiny())
    examples = Examples(find_pairs(tiny(), ["training"]), tiny())
    to_come = Optimiser(network.parameters(), tiny(), "fp32", torch.device("cpu")).bytes_to_come()
    some = 1.1 * needed(network, examples, 2)
    results = {}
    for room, told in (
        (1e12, "kept\n"),
        (some, "kept; 2 of 4 images at once"),
        (0, "recomputed; 1 of 4 images at once"),
    ):
        monkeypatch.setattr(loop, "device_memory", lambda _, room=room: to_come + room)
        folder = tmp_path / f"{room:.0f}"
        loop.train(tiny(savedir=str(folder), **settings), set())
        assert f"activations are {told}" in (folder / "log.txt").read_text()
        results[told] = torch.load(folder / "model000002.pt", weights_only=True)
    start = torch.load(random_weights, weights_only=True)
    whole, *others = results.values()
    for other in others:
        assert distance(other, whole) <= 1e-3 * distance(whole, start)


def test_a_run_goes_on_with_the_microbatches_it_began_with(tiny, random_weights, tmp_path, monkeypatch):
    """Otherwise the memory that happens to be free would decide about the last bits."""
    two = 1.1 * needed(build_network(tiny()), Examples(find_pairs(tiny(), ["training"]), tiny()), 2)
    common = {"savedir": str(tmp_path), "resume_checkpoint": str(random_weights)}
    for steps, room, changes, told in (
        (1, two, {}, "kept; 2 of 4 images at once, as memory allows"),
        (2, 1e12, {}, "kept; 2 of 4 images at once, as before"),
        (3, 0, {}, "recomputed; 2 of 4 images at once, as before"),
        (4, 1e12, {"microbatch": 3}, "kept; 3 of 4 images at once, as asked"),
        (5, 1e12, {}, "kept\n"),  # what was asked for once holds no longer
    ):
        monkeypatch.setattr(loop, "device_memory", lambda _, room=room: room)
        monkeypatch.setattr(Optimiser, "bytes_to_come", lambda _: 0)
        loop.train(tiny(**common, batch_size_train=4, lr_anneal_steps=steps, **changes), set())
        assert f"activations are {told}" in (tmp_path / "log.txt").read_text()


def test_two_images_that_do_not_fit_leave_room_for_one(tiny, examples, monkeypatch):
    def full(network, microbatch, precision):
        if len(microbatch) > 1:
            raise torch.cuda.OutOfMemoryError
        return 100

    monkeypatch.setattr(memory, "activation_bytes", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert fit(build_network(tiny()), examples, 250 * HEADROOM, batch=4) == (1, False)


def test_freed_memory_is_used_again_without_a_page_fault():
    """Once there is enough of it. In a process of its own: the setting cannot be taken back."""
    code = """
import resource, torch
from guided_diffusion.runs.node import keep_freed_memory
keep_freed_memory()
def fill():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[fill() for _ in range(16)])
"""
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    command = [sys.executable, "-c", code]
    first, *later = map(int, subprocess.check_output(command, env=environment, text=True).split())
    assert min(later) < 100 < first  # the least: pages may be taken away meanwhile
