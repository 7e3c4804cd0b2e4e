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
        """[U, 2 C]: 1 + gamma and beta of each distinct neighbourhood.

        The second convolution adds up nine products, one for each 3 x 3 part of a neighbourhood. Parts are few, and
        come back in many neighbourhoods: each is multiplied once, by all nine weights, and added up in float32.
        """
        shared = self.mlp_shared[0]
        first_weight = shared.weight.permute(0, 2, 3, 1).flatten(1)  # as patches lie: rows first, the channel last
        hidden = F.linear(level.patch_vectors, first_weight, shared.bias).relu()
        hidden = hidden * level.patch_inside.type_as(hidden)
        weight = torch.cat([self.mlp_gamma.weight, self.mlp_beta.weight]).type_as(hidden)
        bias = torch.cat([self.mlp_gamma.bias + 1, self.mlp_beta.bias])
        with torch.autocast(hidden.device.type, enabled=False):
            products = F.linear(hidden.float(), weight.float().permute(2, 3, 0, 1).flatten(0, 2))  # [U3, 9 * 2 C]
            places = torch.arange(9, device=hidden.device)
            rows = F.embedding_bag(9 * level.patch_of_row + places, products.view(-1, len(bias)), mode="sum")
        return (rows + bias).type_as(hidden)
