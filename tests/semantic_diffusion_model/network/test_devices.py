"""Every tensor lies on the device of its network. Shown without a GPU: torch computes shapes and devices alone."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from config import Settings
from guided_diffusion.network import modulation, modulation_plain
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.from_settings import build_diffusion, build_network
from guided_diffusion.network.precision import predictor
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.sampling import samplers
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.graphs import Graphed

SHAPE = (2, 3, 16, 16)
LABELS = np.random.default_rng(0).integers(0, 5, (2, 4, 4)).repeat(4, 1).repeat(4, 2)


@pytest.fixture
def pretended(monkeypatch) -> Iterator[FakeTensorMode]:
    """Within the test a GPU is there, as far as shapes and devices go. Its kernels, graphs and generators are not."""
    monkeypatch.setattr(modulation, "_implementation", lambda _: modulation_plain)
    monkeypatch.setattr(Graphed, "_record", lambda *_: None)
    monkeypatch.setattr(samplers, "normal", lambda _, shape: torch.randn(2, *shape, device="cuda"))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def on_gpu(settings: Settings, pretended: FakeTensorMode) -> tuple[UNetModel, Condition]:
    with torch.device("cuda"):
        network = build_network(settings)
    condition = Condition.from_labels(LABELS, 5, factors=network.factors, mode=settings.modulation)
    return network, condition._map(pretended.from_tensor).to("cuda")


@pytest.mark.parametrize("modulation_mode", ["table", "dense"])
@pytest.mark.parametrize("prediction", [{}, {"prediction_type": "v_prediction", "loss_weighting": "min_snr"}])
def test_the_loss_stays_on_the_gpu(tiny, pretended, modulation_mode, prediction):
    settings = tiny(modulation=modulation_mode, **prediction)
    network, condition = on_gpu(settings, pretended)
    x_start, noise = torch.randn(SHAPE, device="cuda"), torch.randn(SHAPE, device="cuda")
    t = torch.zeros(2, dtype=torch.int64, device="cuda")
    # Its gradient cannot be taken: the backward pass asks the driver for the device.
    losses = build_diffusion(settings).training_losses(predictor(network, condition, "bf16"), x_start, t, noise)
    assert {loss.device.type for loss in losses.values()} == {"cuda"}


@pytest.mark.parametrize("sampler", sorted(samplers.SAMPLERS))
def test_guided_sampling_stays_on_the_gpu(tiny, pretended, sampler):
    settings = tiny()
    network, condition = on_gpu(settings, pretended)
    denoiser = Denoiser(network.requires_grad_(False), build_diffusion(settings), condition, s=2.0)
    images = samplers.sample(sampler, denoiser, torch.randn(SHAPE, device="cuda"), [0, 500, 999])
    assert images.device.type == "cuda" and images.shape == SHAPE


def test_a_tensor_on_the_wrong_device_is_found(tiny, pretended):
    network, condition = on_gpu(tiny(), pretended)
    with pytest.raises(Exception, match="device"):
        network(torch.randn(SHAPE, device="cuda"), torch.zeros(2, dtype=torch.int64), condition)
