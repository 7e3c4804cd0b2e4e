"""The published network computed as published: layer by layer, in PyTorch's plain operations, channels first.

The yardstick of cpu.py. The label map is convolved at each pixel of each modulated layer, attention makes its whole
matrix of weights, each block is recomputed in the backward pass. Architecture and weights are those of a UNetModel.
"""

import math

import torch
import torch.nn.functional as F
from diffusion_setup import ROOT  # noqa: F401 - the folder of the network is found by it
from torch import nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.network.blocks import AttentionBlock, SDMResBlock, timestep_embedding
from guided_diffusion.network.spade import SPADE
from guided_diffusion.network.unet import UNetModel


def published(network: UNetModel, x: torch.Tensor, timesteps: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """What `network` gives for x [N, C, H, W], timesteps [N] and one-hot label maps [N, classes, H, W]."""
    emb = network.time_embed(timestep_embedding(timesteps, network.model_channels))
    h, features = x, []
    for block in network.input_blocks:
        h = _layers(block, h, emb, maps)
        features.append(h)
    h = _layers(network.middle_block, h, emb, maps)
    for block in network.output_blocks:
        h = _layers(block, torch.cat([h, features.pop()], dim=1), emb, maps)
    norm, silu, conv = network.out
    return _convolve(conv, silu(_normalise(norm, h, maps)))


def _layers(block: nn.Sequential, h: torch.Tensor, emb: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    for layer in block:
        if isinstance(layer, nn.Conv2d):
            h = _convolve(layer, h)
            continue
        compute = _attention if isinstance(layer, AttentionBlock) else _residual
        if torch.is_grad_enabled():
            h = checkpoint(compute, layer, h, emb, maps, use_reentrant=False)
        else:
            h = compute(layer, h, emb, maps)
    return h


def _residual(block: nn.Module, x: torch.Tensor, emb: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    modulated = isinstance(block, SDMResBlock)
    first, second = (block.in_norm, block.out_norm) if modulated else (block.in_layers[0], block.out_layers[0])
    h = block.h_upd(F.silu(_normalise(first, x, maps)))
    h = _convolve(block.in_layers[-1], h)
    scale, shift = block.emb_layers(emb)[..., None, None].chunk(2, dim=1)
    h = _normalise(second, h, maps) * (1 + scale) + shift
    h = _convolve(block.out_layers[-1], F.silu(h))
    x, skip = block.x_upd(x), block.skip_connection
    return (_convolve(skip, x) if isinstance(skip, nn.Conv2d) else x) + h


def _normalise(layer: nn.Module, x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    if not isinstance(layer, SPADE):
        return F.group_norm(x, layer.num_groups, layer.weight, layer.bias, layer.eps)
    hidden = layer.mlp_shared(F.interpolate(maps, size=x.shape[2:], mode="nearest"))
    return F.group_norm(x, 32) * (1 + layer.mlp_gamma(hidden)) + layer.mlp_beta(hidden)


def _attention(block: AttentionBlock, x: torch.Tensor, emb: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    pixels = _normalise(block.norm, x, maps).flatten(2)
    q, k, v = (part.unflatten(1, (block.num_heads, -1)) for part in block.qkv(pixels).chunk(3, dim=1))
    scale = 1 / math.sqrt(math.sqrt(q.shape[2]))
    weight = torch.einsum("nhct,nhcs->nhts", q * scale, k * scale).softmax(dim=-1)
    return x + block.proj_out(torch.einsum("nhts,nhcs->nhct", weight, v).flatten(1, 2)).view_as(x)


def _convolve(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Past what Conv2d does for the sake of speed."""
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
