"""The U-Net against the published checkpoints' names and the golden vectors, and its equivalences."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from command import UserError
from config import Settings
from guided_diffusion.network.blocks import AttentionBlock, timestep_embedding
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.from_settings import build_network
from guided_diffusion.network.layers import Conv2d, GroupNorm32
from guided_diffusion.network.precision import autocast, round_weights
from guided_diffusion.network.unet import UNetModel


def one_hot(labels, classes=5):
    return F.one_hot(torch.as_tensor(labels), classes).permute(0, 3, 1, 2).float()


def golden_network(folder):
    network = UNetModel(**json.loads((folder / "unet_config.json").read_text()))
    weights = torch.load(folder / "unet_state_dict_fp16.pt", weights_only=True)
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True)
    return network


def randomised(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return network


def small_network(**changes):
    settings = {
        "image_size": 16,
        "in_channels": 3,
        "model_channels": 32,
        "out_channels": 6,
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "channel_mult": (1, 2),
        "num_classes": 5,
        "num_head_channels": 32,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        "use_new_attention_order": True,
    }
    return randomised(UNetModel(**settings | changes))


def small_batch(size=16, count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, size, size, generator=generator)
    labels = torch.randint(0, 5, (count, 4, 4), generator=generator).repeat_interleave(size // 4, 1)
    return x, torch.tensor([3, 700][:count]), labels.repeat_interleave(size // 4, 2)


def test_default_configuration_has_the_published_names_and_shapes(reference):
    published = json.loads((reference / "published_256_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        network = build_network(Settings())
    ours = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert ours == published
    assert round(sum(value.numel() for value in network.parameters()) / 1e6, 1) == 652.2


@pytest.mark.parametrize("mode", ["dense", "table"])
@pytest.mark.parametrize("name", ["unet_a", "unet_b"])
def test_outputs_and_gradients_equal_the_golden_vectors(reference, name, mode):
    network = golden_network(reference / name)
    network.modulation = mode
    forward = np.load(reference / name / "unet_forward.npz")
    gradients = np.load(reference / name / "unet_gradients.npz")
    x, timesteps = torch.tensor(forward["x"]), torch.tensor(forward["timesteps"])
    y = one_hot(forward["label"])
    output = network(x, timesteps, y=y)
    assert (output - torch.tensor(forward["output"])).abs().max() <= 1e-4
    null = network(x, timesteps, y=torch.zeros_like(y))
    assert (null - torch.tensor(forward["output_null"])).abs().max() <= 1e-4

    (output * torch.tensor(gradients["weight"])).sum().backward()
    parameters = dict(network.named_parameters())
    norms = np.array([parameters[name].grad.norm().item() for name in gradients["names"].tolist()])
    expected = gradients["grad_norms"]
    # A bias before a normalisation of its own channel has gradient 0; what is left there is rounding.
    matters = expected > 1e-5 * expected.max()
    assert matters.sum() > 200
    np.testing.assert_allclose(norms[matters], expected[matters], rtol=1e-3)
    assert norms[~matters].max(initial=0) <= 2e-5 * expected.max()


def test_activation_checkpointing_changes_nothing_but_memory():
    x, timesteps, labels = small_batch()
    results = []
    for use in (False, True):
        network = small_network(use_checkpoint=use)
        loss = network(x, timesteps, one_hot(labels)).square().mean()
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in network.parameters())])
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_activation_checkpointing_happens_only_where_asked(monkeypatch):
    calls = []
    original = torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(
        "guided_diffusion.network.blocks.checkpoint",
        lambda *args, **kwargs: calls.append(args[0]) or original(*args, **kwargs),
    )
    x, timesteps, labels = small_batch()
    small_network(use_checkpoint=False)(x, timesteps, one_hot(labels))
    assert not calls
    small_network(use_checkpoint=True)(x, timesteps, one_hot(labels))
    assert any(isinstance(block, AttentionBlock) for block in calls) and len(calls) > 5
    calls.clear()
    with torch.no_grad():
        small_network(use_checkpoint=True)(x, timesteps, one_hot(labels))
    assert not calls


@pytest.mark.parametrize("new_order", [True, False])
def test_attention_is_softmax_of_scaled_products(new_order):
    torch.manual_seed(0)
    block = randomised(AttentionBlock(64, 1, 32, new_order))
    x = torch.randn(2, 64, 4, 4)
    pixels = x.flatten(2)
    qkv = block.qkv(block.norm(x).flatten(2))
    heads = []
    for head in range(2):
        if new_order:
            q, k, v = (qkv[:, 64 * part + 32 * head :][:, :32] for part in range(3))
        else:
            q, k, v = (qkv[:, 96 * head + 32 * part :][:, :32] for part in range(3))
        weight = torch.softmax(torch.einsum("nct,ncs->nts", q, k) / 32**0.5, dim=-1)
        heads.append(torch.einsum("nts,ncs->nct", weight, v))
    expected = (pixels + block.proj_out(torch.cat(heads, dim=1))).view_as(x)
    torch.testing.assert_close(block(x, None, None), expected)


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="its kernels run on a GPU")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_timestep", [True, False])
def test_normalisation_with_what_follows_equals_the_plain_layers(with_timestep, silu, device):
    torch.manual_seed(0)
    norm = randomised(GroupNorm32(64)).to(device)
    x = torch.randn(3, 64, 6, 5, device=device, requires_grad=True)
    scale, shift = torch.randn(2, 3, 64, device=device, requires_grad=True) if with_timestep else (None, None)
    fused = norm(x, scale, shift, silu)
    plain = F.group_norm(x, 32, norm.weight, norm.bias)
    if with_timestep:
        plain = plain * (1 + scale[..., None, None]) + shift[..., None, None]
    plain = F.silu(plain) if silu else plain
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    inputs = [x, norm.weight, norm.bias, *([scale, shift] if with_timestep else [])]
    weight = torch.randn_like(x)
    for ours, theirs in zip(
        torch.autograd.grad((fused * weight).sum(), inputs),
        torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["table", "dense"])
def test_weights_rounded_once_give_the_output_of_weights_rounded_at_each_step(mode):
    network = randomised(small_network()).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 700])
    condition = Condition.from_labels(
        torch.arange(5).repeat(2, 16, 4)[:, :, :16], 5, factors=network.factors, mode=mode
    )
    with autocast("bf16", torch.device("cpu")):
        expected = network(x, t, condition)
        rounded = round_weights(network, "bf16")
        assert rounded.time_embed[0].weight.dtype == torch.bfloat16
        assert torch.equal(rounded(x, t, condition), expected)


@pytest.mark.parametrize("round_first", [False, True])
def test_the_last_convolution_stays_in_float32_under_autocast(round_first):
    """Its output against the same convolution in float64, of the features that reach it."""
    network = randomised(small_network()).eval()
    x, timesteps, labels = small_batch()
    reached = []
    network.out[2].register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    weight = network.out[2].weight.detach().double()
    if round_first:
        round_weights(network, "bf16")
    with autocast("bf16", torch.device("cpu")):
        output = network(x, timesteps, one_hot(labels))
    output.sum().backward()
    assert output.dtype == reached[0].dtype == torch.float32
    # Features that were rounded to bf16 and widened again would have their last 16 bits 0.
    assert (reached[0].detach().contiguous().view(torch.int32) & 0xFFFF).count_nonzero() > 0.9 * reached[0].numel()
    exact = F.conv2d(reached[0].double(), weight, network.out[2].bias.double(), padding=1)
    assert ((output - exact).norm() / exact.norm()).item() < 1e-6


def test_timestep_embedding_is_cosines_then_sines():
    embedding = timestep_embedding(torch.tensor([0, 250]), 8)
    frequencies = 10000.0 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(embedding[1], torch.cat([(250 * frequencies).cos(), (250 * frequencies).sin()]))
    torch.testing.assert_close(embedding[0], torch.tensor([1.0] * 4 + [0.0] * 4))


def test_a_fresh_network_outputs_zero():
    network = build_network(Settings(img_size=32, num_channels=32, num_res_blocks=1, num_head_channels=32))
    x, timesteps, labels = small_batch(32)
    with torch.no_grad():
        assert not network(x, timesteps, one_hot(labels)).any()


def test_a_condition_and_its_one_hot_maps_mean_the_same():
    network = small_network().eval()
    x, timesteps, labels = small_batch()
    condition = Condition.from_labels(labels, 5, factors=network.factors)
    with torch.no_grad():
        torch.testing.assert_close(network(x, timesteps, condition), network(x, timesteps, one_hot(labels)))


def test_an_unconditional_network_takes_no_label():
    network = small_network(num_classes=None)
    x, timesteps, labels = small_batch()
    assert network(x, timesteps).shape == (2, 6, 16, 16)
    assert not any("mlp_shared" in name for name in network.state_dict())
    with pytest.raises(ValueError, match="takes none"):
        network(x, timesteps, one_hot(labels))
    with pytest.raises(ValueError, match="needs y"):
        small_network()(x, timesteps)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_resolutions": "30"}, "attention_resolutions: img_size 64 cannot be divided by 30"),
        ({"img_size": 68, "channel_mult": "1,2,3,4", "attention_resolutions": "17"}, "multiple of 8"),
        ({"num_channels": 48}, "32 groups"),
        ({"channel_mult": "1,zwei"}, "not a comma list"),
        ({"num_head_channels": 48}, "num_head_channels 48 does not divide"),
        ({"num_head_channels": -1, "num_heads": 5}, "num_heads 5 does not divide"),
        ({"num_head_channels": -1, "num_heads": -1}, "num_heads -1 does not divide"),
        ({"attention_resolutions": "16,8.5"}, "attention_resolutions: 16,8.5 are sizes in pixels: whole numbers"),
    ],
)
def test_settings_without_a_network_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        build_network(Settings(**{"img_size": 64, "num_channels": 64} | changes))


def test_fractions_in_channel_mult():
    network = build_network(
        Settings(img_size=32, num_channels=64, channel_mult="0.5,1.5", attention_resolutions="16", num_head_channels=32)
    )
    assert network.input_blocks[0][0].out_channels == 32
    assert network.middle_block[1].norm.num_channels == 96


def test_features_and_their_gradients_lie_channels_last_at_every_size():
    """The other layout costs a CPU's convolution up to twice its time, and a copy of what it is given."""
    network, others = small_network(image_size=64, attention_resolutions=()), []

    def look(module, _, tensors):
        tensor = tensors[0] if isinstance(tensors, tuple) else tensors
        if tensor.stride(1) != 1:
            others.append((module, tensor.shape))

    convolutions = [part for part in network.modules() if isinstance(part, Conv2d) and part.kernel_size == (3, 3)]
    assert len(convolutions) > 10
    for convolution in convolutions:
        convolution.register_forward_hook(look)
        if convolution is not network.out[2]:  # what the loss gives it lies as the image does
            convolution.register_full_backward_hook(look)
    condition = Condition.from_labels(np.zeros((2, 64, 64), int), 5, factors=(1, 2))
    network(torch.randn(2, 3, 64, 64), torch.arange(2), condition).square().mean().backward()
    assert not others
