"""The yardstick of the benchmarks, the network computed as published, is the same function as ours."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("size", [32, 64])
def test_the_network_computed_as_published_has_the_same_values_and_gradients(monkeypatch, size):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("timing", "diffusion_setup", "published_network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from diffusion_setup import echo_label_maps, make_condition, make_network
    from published_network import published

    network, labels = make_network(32, size, head=16), echo_label_maps(2, size)
    maps = F.one_hot(torch.from_numpy(labels), 5).permute(0, 3, 1, 2).float()
    x, t = torch.randn(2, 3, size, size), torch.tensor([3, 700])
    results = []
    for compute in (
        lambda: network(x, t, make_condition(network, labels, "table", training=True)),
        lambda: published(network, x, t, maps),
    ):
        network.zero_grad()
        out = compute()
        out.square().mean().backward()
        results.append((out.detach(), [parameter.grad for parameter in network.parameters()]))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert (ours - theirs).abs().max() < 1e-5 * ours.abs().max()
    largest = max(gradient.abs().max() for gradient in our_gradients)
    for one, other in zip(our_gradients, their_gradients, strict=True):
        assert (one - other).abs().max() < 1e-4 * one.abs().max() + 1e-6 * largest
