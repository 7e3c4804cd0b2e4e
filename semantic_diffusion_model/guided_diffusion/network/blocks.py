"""What the U-Net is built of: changes of resolution, residual blocks, attention, and the embedding of the timestep.

Blocks and attention are those of guided diffusion (Dhariwal & Nichol 2021, appendix A), with its names of parameters.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.network.condition import Condition
from guided_diffusion.network.layers import Conv2d, GroupNorm32, zero_parameters
from guided_diffusion.network.spade import SPADE


def timestep_embedding(timesteps: torch.Tensor, width: int, max_period: float = 10000) -> torch.Tensor:
    """Cosines and sines of timesteps [N] at `width` / 2 frequencies each: [N, width] float32 (Vaswani et al. 2017)."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * exponents)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, width % 2))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, followed by a convolution if `use_conv`."""

    def __init__(self, channels: int, use_conv: bool):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1) if use_conv else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Downsample(nn.Module):
    """Halving by a strided convolution, or by averaging 2 x 2 pixels."""

    def __init__(self, channels: int, use_conv: bool):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class _Residual(nn.Module):
    """What the residual blocks of encoder and decoder share: change of resolution, timestep, skip connection."""

    def __init__(
        self, channels: int, emb_channels: int, out_channels: int, resample: str | None, scale_shift: bool
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        resampler = {
            None: nn.Identity,
            "up": lambda: Upsample(channels, False),
            "down": lambda: Downsample(channels, False),
        }
        self.h_upd, self.x_upd = resampler[resample](), resampler[resample]()
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels if scale_shift else out_channels)
        )
        same = out_channels == channels
        self.skip_connection = nn.Identity() if same else Conv2d(channels, out_channels, 1)

    def _timestep(self, h: torch.Tensor, emb: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """h, and what scales and shifts it once it is normalised; or h with the timestep added, None and None."""
        emb_out = self.emb_layers(emb).type_as(h)
        if self.scale_shift:
            return h, *emb_out.chunk(2, dim=1)
        return h + emb_out[:, :, None, None], None, None


class ResBlock(_Residual):
    """Residual block of the encoder (and of an unconditional decoder)."""

    def __init__(self, channels, emb_channels, dropout, out_channels, resample=None, scale_shift=False):
        super().__init__(channels, emb_channels, out_channels, resample, scale_shift)
        self.in_layers = nn.Sequential(GroupNorm32(channels), nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1))
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_parameters(Conv2d(out_channels, out_channels, 3, padding=1)),
        )

    def forward(self, x: torch.Tensor, emb: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        # The SiLUs of in_layers and out_layers are done by the normalisations, in the same pass over memory.
        h = self.in_layers[2](self.h_upd(self.in_layers[0](x, silu=True)))
        h, scale, shift = self._timestep(h, emb)
        h = self.out_layers[0](h, scale, shift, silu=True)
        return self.skip_connection(self.x_upd(x)) + self.out_layers[2:](h)


class SDMResBlock(_Residual):
    """Residual block of the decoder: both normalisations are modulated by the label map."""

    def __init__(
        self, channels, emb_channels, dropout, out_channels, condition_channels, resample=None, scale_shift=False
    ):
        super().__init__(channels, emb_channels, out_channels, resample, scale_shift)
        self.in_norm = SPADE(channels, condition_channels)
        self.in_layers = nn.Sequential(nn.SiLU(), Conv2d(channels, out_channels, 3, padding=1))
        self.out_norm = SPADE(out_channels, condition_channels)
        self.out_layers = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), zero_parameters(Conv2d(out_channels, out_channels, 3, padding=1))
        )

    def forward(self, x: torch.Tensor, emb: torch.Tensor, condition: Condition) -> torch.Tensor:
        h = self.in_layers[1:](self.h_upd(self.in_norm(x, condition, silu=True)))
        h, scale, shift = self._timestep(h, emb)
        h = self.out_norm(h, condition, scale, shift, silu=True)
        return self.skip_connection(self.x_upd(x)) + self.out_layers[1:](h)


class AttentionBlock(nn.Module):
    """Self-attention over all pixels. `new_order`: queries, keys, values split first, heads second."""

    def __init__(self, channels: int, num_heads: int, num_head_channels: int, new_order: bool):
        super().__init__()
        self.num_heads = num_heads if num_head_channels == -1 else channels // num_head_channels
        self.new_order = new_order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_parameters(nn.Conv1d(channels, channels, 1))

    def forward(self, x: torch.Tensor, emb: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        # Channels stay last throughout: nothing is copied, and the fused attention takes no other layout.
        count, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [N, T, C]
        split = (3, self.num_heads, -1) if self.new_order else (self.num_heads, 3, -1)
        qkv = F.linear(pixels, self.qkv.weight[..., 0], self.qkv.bias).unflatten(-1, split)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2 if self.new_order else 3))  # [N, heads, T, c]
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = F.linear(attended, self.proj_out.weight[..., 0], self.proj_out.bias)
        return x + h.view(count, height, width, channels).permute(0, 3, 1, 2)


class TimestepEmbedSequential(nn.Sequential):
    """Layers of one level, of which the residual and attention blocks are recomputed in training if asked."""

    use_checkpoint = False

    def forward(self, x: torch.Tensor, emb: torch.Tensor, condition: Condition | None) -> torch.Tensor:
        for layer in self:
            if not isinstance(layer, _Residual | AttentionBlock):
                x = layer(x)
            elif self.use_checkpoint and torch.is_grad_enabled():
                x = checkpoint(layer, x, emb, condition, use_reentrant=False)
            else:
                x = layer(x, emb, condition)
        return x
