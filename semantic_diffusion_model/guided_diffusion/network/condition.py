"""The condition of a batch: its label maps, in the form in which SPADE needs them at each resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from guided_diffusion.network.neighbourhoods import SummationPlan, find_neighbourhoods, number_windows, summation_plan

# `auto` uses the table where a pixel shares its neighbourhood with at least this many others on average, and where
# the products that the table is made of take no more room than some feature maps, or little in any case.
PIXELS_PER_ROW_FOR_TABLE = 1.25
PRODUCTS_PER_PIXEL, FEW_PRODUCTS = 2, 1 << 16


@dataclass
class Level:
    """Label maps [N, h, w] at one resolution, as integers that index the palette of the condition.

    Dense modulation needs `ids` [N, h, w] int64. The table, with U distinct neighbourhoods, made of U3 distinct 3 x 3
    parts, needs row_of_pixel [N * h * w] int32; patch_vectors [U3, 9 * C] float32, their condition vectors, rows first;
    patch_inside [U3, 1] float32, 0 where its centre lies outside the image; patch_of_row [U, 9] int64; and, for the
    backward pass on a GPU, the plan of its sums.
    """

    ids: torch.Tensor | None = None
    row_of_pixel: torch.Tensor | None = None
    patch_vectors: torch.Tensor | None = None
    patch_inside: torch.Tensor | None = None
    patch_of_row: torch.Tensor | None = None
    plan: SummationPlan | None = None

    @property
    def uses_table(self) -> bool:
        return self.row_of_pixel is not None


@dataclass
class Condition:
    """What a batch is conditioned on: per-pixel vectors of C channels, kept as integers and shared by all layers.

    palette: [K, C] float32, the condition vector of each integer. levels: by (h, w). maps: the vectors themselves
    [N, C, H, W], only where they are not zeros and ones, which the table cannot express. tables: scale and shift that
    were computed already, by layer; None while weights may change (training).
    """

    batch_size: int
    palette: torch.Tensor | None = None
    levels: dict[tuple[int, int], Level] = field(default_factory=dict)
    maps: torch.Tensor | None = None
    tables: dict | None = None

    @staticmethod
    def from_labels(
        labels: torch.Tensor | np.ndarray,
        num_classes: int,
        edges: torch.Tensor | np.ndarray | None = None,
        dropped: Sequence[bool] | torch.Tensor | None = None,
        factors: Sequence[int] = (1,),
        mode: str = "auto",
        training: bool = True,
        patch_size: int = 1,
    ) -> Condition:
        """From label maps [N, H, W] with values 0 .. num_classes - 1.

        edges: bool [N, H, W], instance edges, one more channel of the condition. dropped: [N], samples whose condition
        is all zeros (classifier-free guidance). factors: down-sampling factor of each level of the network; labels are
        shrunk by taking every f-th pixel. mode: auto, table or dense. training: prepare a backward pass on a GPU too.
        patch_size: blocks of so many pixels squared are one pixel for the network, with all their labels as channels.
        Raises ValueError for a label out of range.
        """
        ids = np.asarray(labels).astype(np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(f"labels must lie in 0 .. {num_classes - 1}, found {ids.min()} .. {ids.max()}")
        palette = np.eye(num_classes, dtype=np.float32)
        if edges is not None:
            ids = ids + num_classes * np.asarray(edges).astype(np.int64)
            marks = np.repeat(np.float32([[0], [1]]), num_classes, axis=0)
            palette = np.concatenate([np.concatenate([palette, palette]), marks], axis=1)
        if dropped is not None:
            ids[np.asarray(dropped, dtype=bool)] = len(palette)
        palette = np.concatenate([palette, np.zeros_like(palette[:1])])
        return _build(*_patches(ids, palette, patch_size), factors, mode, training)

    @staticmethod
    def from_maps(
        maps: torch.Tensor,
        factors: Sequence[int] = (1,),
        mode: str = "auto",
        training: bool = True,
        patch_size: int = 1,
    ) -> Condition:
        """From condition maps [N, C, H, W]: one-hot labels (and an edge channel); other values are taken densely."""
        values = maps.detach().cpu().numpy()
        if mode != "dense" and maps.shape[1] <= 62 and np.isin(values, (0, 1)).all():
            weights = 1 << np.arange(values.shape[1], dtype=np.int64)
            codes = np.einsum("nchw,c->nhw", values.astype(np.int64), weights)
            distinct, ids = np.unique(codes, return_inverse=True)
            palette = ((distinct[:, None] & weights) > 0).astype(np.float32)
            patches = _patches(ids.reshape(codes.shape), palette, patch_size)
            return _build(*patches, factors, mode, training).to(maps.device)
        return Condition(len(maps), maps=F.pixel_unshuffle(maps, patch_size))

    def level(self, size: tuple[int, int]) -> Level:
        """The label maps at `size` (h, w). Raises KeyError if no such level was prepared."""
        return self.levels[size]

    def maps_at(self, size: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        """The condition vectors [N, C, h, w] at `size`, for dense modulation."""
        if self.maps is not None:
            return F.interpolate(self.maps.to(dtype), size=size, mode="nearest")
        return self.palette.to(dtype)[self.levels[size].ids].permute(0, 3, 1, 2)

    def remember_tables(self) -> Condition:
        """The same condition, computing each layer's table once: for sampling, where weights stay as they are."""
        return replace(self, tables={})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Condition:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Condition:
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Condition:
        levels = {size: _map_tensors(level, function) for size, level in self.levels.items()}
        palette, maps = _map_tensors(self.palette, function), _map_tensors(self.maps, function)
        return Condition(self.batch_size, palette, levels, maps, self.tables)


def _map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with `function` of each tensor in it, of a dataclass and those in it too."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Level | SummationPlan):
        return type(value)(**{name: _map_tensors(part, function) for name, part in vars(value).items()})
    return value


def _patches(ids: np.ndarray, palette: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of size x size pixels as pixels: `ids` [N, h / size, w / size] of a palette of their distinct contents,
    whose channels lie as those of torch's pixel_unshuffle."""
    if size == 1:
        return ids, palette
    count, height, width = ids.shape
    blocks = ids.reshape(count, height // size, size, width // size, size).swapaxes(2, 3).reshape(-1, size * size)
    numbers, distinct = number_windows(list(blocks.T), len(palette))
    contents = np.empty((distinct, size * size), np.int64)
    contents[numbers] = blocks
    vectors = palette[contents].swapaxes(1, 2).reshape(distinct, -1)  # [K, C * size * size]
    return numbers.reshape(count, height // size, width // size), vectors


def _build(ids: np.ndarray, palette: np.ndarray, factors: Sequence[int], mode: str, training: bool) -> Condition:
    levels = {}
    for factor in factors:
        shrunk = ids[:, ::factor, ::factor]
        levels[shrunk.shape[1:]] = _build_level(shrunk, palette, mode, training)
    return Condition(len(ids), torch.from_numpy(palette), levels)


def _build_level(ids: np.ndarray, palette: np.ndarray, mode: str, training: bool) -> Level:
    if mode == "dense":
        return Level(ids=torch.from_numpy(np.ascontiguousarray(ids)))
    outside = len(palette)
    found = find_neighbourhoods(ids, outside)
    rows = len(found.patch_of_row)
    too_much = 9 * len(found.patches) > max(PRODUCTS_PER_PIXEL * ids.size, FEW_PRODUCTS)
    if mode == "auto" and (rows * PIXELS_PER_ROW_FOR_TABLE > ids.size or too_much):
        return Level(ids=torch.from_numpy(np.ascontiguousarray(ids)))
    vectors = np.concatenate([palette, np.zeros_like(palette[:1])])[found.patches]  # outside: nothing, not class 0
    inside = found.patches[:, 4:5] != outside
    level = Level(
        row_of_pixel=torch.from_numpy(found.row_of_pixel),
        patch_vectors=torch.from_numpy(vectors.reshape(len(vectors), math.prod(vectors.shape[1:]))),
        patch_inside=torch.from_numpy(inside.astype(np.float32)),
        patch_of_row=torch.from_numpy(found.patch_of_row),
    )
    if training:
        plan = summation_plan(found.row_of_pixel, len(ids), rows)
        level.plan = SummationPlan(**{name: torch.from_numpy(array) for name, array in vars(plan).items()})
    return level
