"""Guidance: the encoder runs once for both branches, and the result is that of two full passes."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from guided_diffusion.network.condition import Condition
from guided_diffusion.network.unet import UNetModel
from guided_diffusion.process.diffusion import GaussianDiffusion, make_betas
from guided_diffusion.sampling.denoiser import Denoiser
from guided_diffusion.sampling.graphs import Graphed


def network():
    torch.manual_seed(0)
    net = UNetModel(16, 3, 32, 6, 1, (2,), channel_mult=(1, 2), num_classes=5, num_head_channels=32)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


LABELS = torch.arange(5).repeat(2, 16, 4)[:, :, :16]
PROCESS = GaussianDiffusion(make_betas("cosine", 100))


def denoiser(net, s, clip=False):
    return Denoiser(net, PROCESS, Condition.from_labels(LABELS, 5, factors=net.factors, training=False), s, clip)


@torch.no_grad()
def test_guidance_equals_two_full_passes_on_the_noise_alone():
    net, x, t, s = network(), torch.randn(2, 3, 16, 16), torch.full((2,), 60), 2.5
    maps = F.one_hot(LABELS, 5).permute(0, 3, 1, 2).float()
    labelled, null = net(x, t, maps), net(x, t, torch.zeros_like(maps))
    eps = null[:, :3] + s * (labelled[:, :3] - null[:, :3])
    expected = PROCESS.interpret(torch.cat([eps, labelled[:, 3:]], dim=1), x, t, clip=False)
    ours = denoiser(net, s)(x, 60)
    torch.testing.assert_close(ours.x_start, expected.x_start, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.log_variance, expected.log_variance)
    assert (labelled - null).abs().max() > 1e-2  # else nothing was guided


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_guiding_x_start_or_v_is_guiding_the_noise(kind):
    """The noises that both branches stand for, guided by the formula of Ho & Salimans, against what is done."""
    process = GaussianDiffusion(make_betas("cosine", 100), prediction_type=kind)
    net, x, t, s = network(), torch.randn(2, 3, 16, 16), torch.full((2,), 60), 2.5
    maps = F.one_hot(LABELS, 5).permute(0, 3, 1, 2).float()
    alpha_bar = float(process.alphas_cumprod[60])

    def eps(output):
        x_start = process.interpret(output, x, t, clip=False).x_start
        return (x - alpha_bar**0.5 * x_start) / (1 - alpha_bar) ** 0.5

    labelled, null = eps(net(x, t, maps)), eps(net(x, t, torch.zeros_like(maps)))
    condition = Condition.from_labels(LABELS, 5, factors=net.factors, training=False)
    ours = Denoiser(net, process, condition, s, clip_denoised=False)(x, 60).x_start
    expected = (x - (1 - alpha_bar) ** 0.5 * (null + s * (labelled - null))) / alpha_bar**0.5
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_encoder_runs_once_and_scale_one_costs_nothing(monkeypatch):
    net, x = network(), torch.randn(2, 3, 16, 16)
    calls = []
    for name in ("encode", "decode"):
        original = getattr(net, name)
        monkeypatch.setattr(net, name, lambda *args, n=name, f=original: calls.append(n) or f(*args))
    denoiser(net, 1.0)(x, 50)
    assert calls == ["encode", "decode"]
    calls.clear()
    denoiser(net, 3.0)(x, 50)
    assert calls == ["encode", "decode", "decode"]


@torch.no_grad()
def test_clipping_keeps_the_image_within_its_range():
    net, x = network(), 5 * torch.randn(2, 3, 16, 16)
    assert denoiser(net, 1.0, clip=False)(x, 80).x_start.abs().max() > 1
    assert denoiser(net, 1.0, clip=True)(x, 80).x_start.abs().max() <= 1


def test_a_denoiser_and_its_graph_are_gone_with_their_last_reference():
    """Nothing refers back: the memory of a graph must be free before the next batch needs it."""
    one = denoiser(network(), 2.0)
    one(torch.randn(2, 3, 16, 16), 60)
    graph = weakref.ref(one.evaluate)
    gc.disable()
    try:
        del one
        assert graph() is None
    finally:
        gc.enable()


def test_without_a_gpu_a_graphed_function_is_called_as_it_is():
    calls = []
    double = Graphed(lambda x: calls.append(1) or 2 * x)
    assert [double(torch.tensor([i])).item() for i in range(4)] == [0, 2, 4, 6]
    assert len(calls) == 4
    assert double.graph is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@torch.no_grad()
def test_steps_replayed_from_a_graph_equal_steps_that_are_run():
    net = network().cuda()
    condition = Condition.from_labels(LABELS, 5, factors=net.factors, training=False).to("cuda")
    replayed, run = (Denoiser(net, PROCESS, condition, s=2.0, clip_denoised=False) for _ in range(2))
    run.evaluate = run.guided
    results = [(replayed(x, 60), run(x, 60)) for x in torch.randn(5, 2, 3, 16, 16, device="cuda")]
    assert replayed.evaluate.graph is not None
    for ours, theirs in results:  # compared at the end: a replay must not overwrite what an earlier one gave
        torch.testing.assert_close(ours.x_start, theirs.x_start, atol=1e-4, rtol=1e-4)
