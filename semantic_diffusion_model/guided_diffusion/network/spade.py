"""Semantic modulation (SPADE, Park et al. 2019): normalised features, scaled and shifted by the label map.

    out = normalise(x) * (1 + gamma(labels)) + beta(labels),    gamma, beta = conv(relu(conv(labels)))

Two ways to the same values. Dense: convolve the label map at each pixel. Table: gamma and beta depend on the 5 x 5
labels around a pixel: compute them once for each distinct neighbourhood of the batch, as rows of a table, and let each
pixel take its row. Exactness needs care in three places: a label outside the image is nothing, not class 0; the hidden
activation outside the image is 0, not relu(bias); a dropped label is an all-zero vector inside the image.
"""

import torch
import torch.nn.functional as F
from torch import nn

from guided_diffusion.network.condition import Condition, Level
from guided_diffusion.network.modulation import modulate
from guided_diffusion.network.modulation_plain import NORM_EPS, NORM_GROUPS

HIDDEN_CHANNELS = 128


class SPADE(nn.Module):
    """Group normalisation of x [N, C, h, w], modulated by the condition at its resolution."""

    def __init__(self, channels: int, condition_channels: int):
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(condition_channels, HIDDEN_CHANNELS, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(HIDDEN_CHANNELS, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(HIDDEN_CHANNELS, channels, 3, padding=1)

    def forward(
        self,
        x: torch.Tensor,
        condition: Condition,
        scale: torch.Tensor | None = None,
        shift: torch.Tensor | None = None,
        silu: bool = False,
    ) -> torch.Tensor:
        """Modulated x; then times 1 + scale plus shift [N, C] of the timestep, if given; then SiLU, if asked for."""
        size = tuple(x.shape[-2:])
        if condition.maps is None and condition.level(size).uses_table:
            level = condition.level(size)
            return modulate(x, self._table(condition, level, size), level, scale, shift, silu)
        hidden = self.mlp_shared(condition.maps_at(size, x.dtype))
        gamma, beta = self.mlp_gamma(hidden), self.mlp_beta(hidden)
        h = torch.addcmul(beta, F.group_norm(x.float(), NORM_GROUPS, eps=NORM_EPS).type_as(x), 1 + gamma)
        if scale is not None:
            h = torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])
        return F.silu(h) if silu else h

    def _table(self, condition: Condition, level: Level, size: tuple[int, int]) -> torch.Tensor:
        if condition.tables is None or torch.is_grad_enabled():
            return self.table(level)
        key = (id(self), size)
        if key not in condition.tables:
            condition.tables[key] = self.table(level)
        return condition.tables[key]

    def table(self, level: Level) -> torch.Tensor:
        """[U, 2 C]: 1 + gamma and beta of each distinct neighbourhood."""
        shared = self.mlp_shared[0]
        hidden = F.linear(level.patch_vectors, _as_rows(shared.weight), shared.bias).relu() * level.patch_inside
        windows = hidden[level.patch_of_row].flatten(1)  # [U, 9 * HIDDEN_CHANNELS]
        weight = torch.cat([_as_rows(self.mlp_gamma.weight), _as_rows(self.mlp_beta.weight)])
        return F.linear(windows, weight, torch.cat([self.mlp_gamma.bias + 1, self.mlp_beta.bias]))


def _as_rows(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weight [out, in, 3, 3] as a matrix [out, 9 * in] over windows with the channel last."""
    return weight.permute(0, 2, 3, 1).flatten(1)
