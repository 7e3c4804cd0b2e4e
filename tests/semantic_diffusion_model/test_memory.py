"""Activations are kept where there is room for them, and recomputed where there is not: with the same result."""

import pytest
import torch

from guided_diffusion import memory, training
from guided_diffusion.build import build_network
from guided_diffusion.datasets import find_pairs
from guided_diffusion.loading import Examples
from guided_diffusion.memory import HEADROOM, activation_bytes, keeps_activations, left_by_limits
from guided_diffusion.optimisation import Optimiser


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


@pytest.mark.parametrize("images", [1, 2, 6])
def test_the_choice_is_by_the_room_there_is(tiny, examples, images):
    network = build_network(tiny(use_checkpoint=False))
    whole = HEADROOM * activation_bytes(network, examples.microbatch(range(images)), "fp32")
    assert keeps_activations(network, examples, images, "fp32", 1.1 * whole)
    assert not keeps_activations(network, examples, images, "fp32", 0.9 * whole)


def test_no_more_is_tried_than_fits(tiny, examples, monkeypatch):
    tried = []
    monkeypatch.setattr(memory, "activation_bytes", lambda _, microbatch, __: tried.append(len(microbatch)) or 100)
    network = build_network(tiny())
    assert not keeps_activations(network, examples, 8, "fp32", 200 * HEADROOM - 1)
    assert tried == [1]


def test_the_first_step_brings_gradients_and_two_averages(tiny):
    network, settings = build_network(tiny()), tiny()
    optimiser = Optimiser(network.parameters(), settings, "fp32", torch.device("cpu"))
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert optimiser.bytes_to_come() == 3 * weights
    network.out[2].weight.grad = torch.ones_like(network.out[2].weight)
    optimiser.step(1e-3)
    assert optimiser.bytes_to_come() == weights


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


def test_recomputing_for_want_of_memory_trains_the_same(tiny, random_weights, tmp_path, monkeypatch):
    results = {}
    for name, free in (("kept", 1e12), ("recomputed", 0)):
        monkeypatch.setattr(training, "device_memory", lambda _, free=free: free)
        folder = tmp_path / name
        training.train(tiny(savedir=str(folder), resume_checkpoint=str(random_weights), lr_anneal_steps=2), set())
        assert f"activations are {name}" in (folder / "log.txt").read_text()
        results[name] = torch.load(folder / "model000002.pt", weights_only=True)
    for name, value in results["kept"].items():
        torch.testing.assert_close(value, results["recomputed"][name], atol=1e-6, rtol=1e-5)
