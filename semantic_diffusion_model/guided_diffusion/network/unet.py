"""The U-Net of the semantic diffusion model (Wang et al. 2022, figure 2), with the parameter names of its checkpoints.

The encoder sees the noisy image alone; the middle and the decoder are modulated by the label map through SPADE. Blocks
and attention are those of guided diffusion (Dhariwal & Nichol 2021, appendix A).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from guided_diffusion.network.condition import Condition
from guided_diffusion.network.layers import Conv2d, Float32Conv2d, GroupNorm32, zero_parameters
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


class UNetModel(nn.Module):
    """The network: (x_t, timesteps, label map) -> predicted noise, and variance values if out_channels says so.

    attention_resolutions are down-sampling factors. num_classes is the number of channels of the condition; None makes
    an unconditional network. patch_size folds blocks of pixels, and of labels, into channels on the way in, and unfolds
    the output. conv_resample: where no residual block changes the resolution, a convolution does; else a plain mean or
    repetition. image_size, dims and use_fp16 are accepted for the sake of the published signature: the size is free,
    dims must be 2, and half precision is the business of autocast.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        dims: int = 2,
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        patch_size: int = 1,
    ):
        super().__init__()
        if dims != 2:
            raise ValueError(f"dims must be 2, not {dims}")
        self.image_size = image_size
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.model_channels = model_channels
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.factors = tuple(2**level for level in range(len(channel_mult)))  # of the grid of patches
        self.modulation = "auto"
        emb_channels, per_patch = 4 * model_channels, patch_size**2
        scale_shift = use_scale_shift_norm
        decoder_heads = num_heads if num_heads_upsample == -1 else num_heads_upsample

        def residual(channels, out, resample=None):
            return ResBlock(channels, emb_channels, dropout, out, resample, scale_shift)

        def modulated(channels, out, resample=None):
            if num_classes is None:
                return residual(channels, out, resample)
            return SDMResBlock(channels, emb_channels, dropout, out, num_classes * per_patch, resample, scale_shift)

        def attention(channels, heads):
            return AttentionBlock(channels, heads, num_head_channels, use_new_attention_order)

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        channels = int(channel_mult[0] * model_channels)
        first = Conv2d(in_channels * per_patch, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(first)])
        skips = [channels]
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [residual(channels, int(mult * model_channels))]
                channels = int(mult * model_channels)
                if 2**level in attention_resolutions:
                    layers.append(attention(channels, num_heads))
                self.input_blocks.append(TimestepEmbedSequential(*layers))
                skips.append(channels)
            if level < len(channel_mult) - 1:
                down = residual(channels, channels, "down") if resblock_updown else Downsample(channels, conv_resample)
                self.input_blocks.append(TimestepEmbedSequential(down))
                skips.append(channels)

        self.middle_block = TimestepEmbedSequential(
            modulated(channels, channels), attention(channels, num_heads), modulated(channels, channels)
        )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(channel_mult))):
            for block in range(num_res_blocks + 1):
                layers = [modulated(channels + skips.pop(), int(mult * model_channels))]
                channels = int(mult * model_channels)
                if 2**level in attention_resolutions:
                    layers.append(attention(channels, decoder_heads))
                if level and block == num_res_blocks:
                    up = modulated(channels, channels, "up") if resblock_updown else Upsample(channels, conv_resample)
                    layers.append(up)
                self.output_blocks.append(TimestepEmbedSequential(*layers))

        last = zero_parameters(Float32Conv2d(channels, out_channels * per_patch, 3, padding=1))
        self.out = nn.Sequential(GroupNorm32(channels), nn.SiLU(), last)
        self.recompute(use_checkpoint)

    def recompute(self, yes: bool) -> None:
        """Whether the backward pass recomputes the activations of each block, or finds them in memory."""
        for module in self.modules():
            if isinstance(module, TimestepEmbedSequential):
                module.use_checkpoint = yes

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, y: Condition | torch.Tensor | None = None
    ) -> torch.Tensor:
        """x: [N, in_channels, H, W]; timesteps: [N]; y: a Condition, or its maps [N, num_classes, H, W] (one-hot).

        Returns [N, out_channels, H, W], float32 under autocast too. Raises ValueError if y is missing, or given to an
        unconditional network.
        """
        return self.decode(self.encode(x, timesteps), y)

    def encode(self, x: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The timestep's embedding and the features of each encoder block: all that needs no label."""
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        h = F.pixel_unshuffle(x, self.patch_size).contiguous(memory_format=torch.channels_last)
        features = []
        for block in self.input_blocks:
            h = block(h, emb, None)
            features.append(h)
        return emb, features

    def decode(
        self, encoded: tuple[torch.Tensor, list[torch.Tensor]], y: Condition | torch.Tensor | None
    ) -> torch.Tensor:
        """The output for what `encode` returned (which is left as it is) and the condition y."""
        condition = self._condition(y)
        emb, features = encoded[0], list(encoded[1])
        h = self.middle_block(features[-1], emb, condition)
        for block in self.output_blocks:
            h = block(torch.cat([h, features.pop()], dim=1), emb, condition)
        norm, _, conv = self.out
        return F.pixel_shuffle(conv(norm(h.float(), silu=True)), self.patch_size)

    def _condition(self, y: Condition | torch.Tensor | None) -> Condition | None:
        if (y is None) != (self.num_classes is None):
            raise ValueError("a conditional network needs y, an unconditional one takes none")
        if isinstance(y, torch.Tensor):
            return Condition.from_maps(y, self.factors, self.modulation, torch.is_grad_enabled(), self.patch_size)
        return y
