"""Activations are kept where there is room for them, and recomputed where there is not: with the same result."""

import pytest
import torch

from guided_diffusion import memory
from guided_diffusion.build import build_network
from guided_diffusion.datasets import find_pairs
from guided_diffusion.loading import Examples
from guided_diffusion.memory import BYTES_PER_WEIGHT, HEADROOM, activation_bytes, keeps_activations
from guided_diffusion.training import train
from guided_diffusion.world import World


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


def test_the_choice_is_by_the_memory_that_is_free(tiny, examples, monkeypatch):
    network, images = build_network(tiny(use_checkpoint=False)), 6
    whole = activation_bytes(network, examples.microbatch(range(images)), "fp32")
    weights = sum(parameter.numel() for parameter in network.parameters())
    for free, keeps in ((1.1, True), (0.9, False)):
        room = free * (HEADROOM * whole + BYTES_PER_WEIGHT * weights)
        monkeypatch.setattr(memory, "device_memory", lambda _, room=room: room)
        assert keeps_activations(network, examples, images, "fp32", World()) is keeps


def test_recomputing_for_want_of_memory_trains_the_same(tiny, random_weights, tmp_path, monkeypatch):
    results = {}
    for name, free in (("kept", 1e12), ("recomputed", 0)):
        monkeypatch.setattr(memory, "device_memory", lambda _, free=free: free)
        folder = tmp_path / name
        train(tiny(savedir=str(folder), resume_checkpoint=str(random_weights), lr_anneal_steps=2), set())
        assert f"activations are {name}" in (folder / "log.txt").read_text()
        results[name] = torch.load(folder / "model000002.pt", weights_only=True)
    for name, value in results["kept"].items():
        torch.testing.assert_close(value, results["recomputed"][name], atol=1e-6, rtol=1e-5)
