"""The U-Net of the semantic diffusion model (Wang et al. 2022, figure 2), with the parameter names of its checkpoints.

The encoder sees the noisy image alone; the middle and the decoder are modulated by the label map through SPADE.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from guided_diffusion.network.blocks import (
    AttentionBlock,
    Downsample,
    ResBlock,
    SDMResBlock,
    TimestepEmbedSequential,
    Upsample,
    timestep_embedding,
)
from guided_diffusion.network.condition import Condition
from guided_diffusion.network.layers import Conv2d, Float32Conv2d, GroupNorm32, zero_parameters


@dataclass(frozen=True)
class _Blocks:
    """What the blocks of one network have in common; they differ in their channels."""

    emb_channels: int
    dropout: float
    scale_shift: bool
    label_channels: int | None
    """Of the condition at its finest; None: nothing is modulated."""
    head_channels: int
    new_attention_order: bool
    residual_resampling: bool
    conv_resample: bool

    def residual(self, channels: int, out: int, resample: str | None = None) -> ResBlock:
        return ResBlock(channels, self.emb_channels, self.dropout, out, resample, self.scale_shift)

    def modulated(self, channels: int, out: int, resample: str | None = None) -> ResBlock | SDMResBlock:
        if self.label_channels is None:
            return self.residual(channels, out, resample)
        return SDMResBlock(
            channels, self.emb_channels, self.dropout, out, self.label_channels, resample, self.scale_shift
        )

    def attention(self, channels: int, heads: int) -> AttentionBlock:
        return AttentionBlock(channels, heads, self.head_channels, self.new_attention_order)

    def down(self, channels: int) -> nn.Module:
        if self.residual_resampling:
            return self.residual(channels, channels, "down")
        return Downsample(channels, self.conv_resample)

    def up(self, channels: int) -> nn.Module:
        if self.residual_resampling:
            return self.modulated(channels, channels, "up")
        return Upsample(channels, self.conv_resample)


def _encoder(
    first: nn.Module, blocks: _Blocks, widths: Sequence[int], attended: Sequence[bool], num_res_blocks: int, heads: int
) -> tuple[nn.ModuleList, list[int]]:
    """The encoder, a level for each of `widths`, and the channels that each of its blocks hands to the decoder."""
    encoder, channels = nn.ModuleList([TimestepEmbedSequential(first)]), widths[0]
    skips = [channels]
    for level, width in enumerate(widths):
        for _ in range(num_res_blocks):
            layers = [blocks.residual(channels, width)]
            if attended[level]:
                layers.append(blocks.attention(width, heads))
            encoder.append(TimestepEmbedSequential(*layers))
            channels = width
            skips.append(channels)
        if level < len(widths) - 1:
            encoder.append(TimestepEmbedSequential(blocks.down(channels)))
            skips.append(channels)
    return encoder, skips


def _decoder(
    skips: list[int], blocks: _Blocks, widths: Sequence[int], attended: Sequence[bool], num_res_blocks: int, heads: int
) -> nn.ModuleList:
    """The decoder, from the deepest level up, for features of the encoder with the channels `skips`."""
    decoder, channels, skips = nn.ModuleList(), widths[-1], list(skips)
    for level, width in reversed(list(enumerate(widths))):
        for block in range(num_res_blocks + 1):
            layers = [blocks.modulated(channels + skips.pop(), width)]
            if attended[level]:
                layers.append(blocks.attention(width, heads))
            if level and block == num_res_blocks:
                layers.append(blocks.up(width))
            decoder.append(TimestepEmbedSequential(*layers))
            channels = width
    return decoder


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
        blocks = _Blocks(
            emb_channels, dropout, use_scale_shift_norm, num_classes and num_classes * per_patch, num_head_channels,
            use_new_attention_order, resblock_updown, conv_resample,
        )  # fmt: skip
        widths = [int(mult * model_channels) for mult in channel_mult]
        attended = [factor in attention_resolutions for factor in self.factors]
        decoder_heads = num_heads if num_heads_upsample == -1 else num_heads_upsample

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        first = Conv2d(in_channels * per_patch, widths[0], 3, padding=1)
        self.input_blocks, skips = _encoder(first, blocks, widths, attended, num_res_blocks, num_heads)
        deepest = widths[-1]
        self.middle_block = TimestepEmbedSequential(
            blocks.modulated(deepest, deepest), blocks.attention(deepest, num_heads), blocks.modulated(deepest, deepest)
        )
        self.output_blocks = _decoder(skips, blocks, widths, attended, num_res_blocks, decoder_heads)
        last = zero_parameters(Float32Conv2d(widths[0], out_channels * per_patch, 3, padding=1))
        self.out = nn.Sequential(GroupNorm32(widths[0]), nn.SiLU(), last)
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
