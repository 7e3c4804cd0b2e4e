"""The U-Net of the semantic diffusion model (Wang et al. 2022, figure 2), with the parameter names of its checkpoints.

The encoder sees the noisy image alone; the middle and the decoder are modulated by the label map through SPADE.
"""

from collections.abc import Sequence

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
