"""Training data on its way to the network: which sample is when, what is done to it, what is held in memory.

Sample g of a run (counted over all steps and ranks) is picture `order(seed, g)`, flipped, cropped and stripped of its
label as a stream addressed by (seed, g) says. So the data of a step do not depend on ranks, workers or interruptions.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from command import UserError, one_line
from config import Settings
from cores import usable_cores
from guided_diffusion.data.arrays import (
    Box,
    load_channels,
    load_edges,
    load_label,
    other_aspect,
    read_channels,
    read_instances,
    read_label,
    resize_image,
    resize_nearest,
)
from guided_diffusion.data.datasets import Pair, raise_problems
from guided_diffusion.data.label_maps import check_classes
from guided_diffusion.data.shared_memory import tensors_of
from guided_diffusion.network.condition import Condition
from guided_diffusion.process.random_streams import stream

SMALLEST_CROP = 0.8
DECODED_AT_ONCE, DECODED_BY_ONE = 64, 8  # examples: by all threads; by one thread before it is asked again
Decoded = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # image, label and edges of a pair
LESS = "--num_workers 0 works without loader processes, fewer of them need less memory"


@dataclass
class Microbatch:
    """Samples `first` .. `first` + N - 1 of the run.

    `image` [N, image_channels, H, W] uint8; `condition` None for an unconditional model.
    """

    first: int
    image: torch.Tensor
    condition: Condition | None

    def __len__(self) -> int:
        return len(self.image)

    def pin_memory(self) -> "Microbatch":
        condition = None if self.condition is None else self.condition.pin_memory()
        return Microbatch(self.first, self.image.pin_memory(), condition)

    def to(self, device: torch.device) -> "Microbatch":
        """On `device`, without waiting for the copy."""
        condition = None if self.condition is None else self.condition.to(device, non_blocking=True)
        return Microbatch(self.first, self.image.to(device, non_blocking=True), condition)

    def x_start(self) -> torch.Tensor:
        """The images as float32 in [-1, 1]."""
        return self.image.float() / 127.5 - 1


class Examples:
    """Images [image_channels, H, W] uint8, classes [H, W] uint8 and edges [H, W] bool (or None), by index.

    They come from the files, or, after `hold`, from memory.
    """

    def __init__(self, pairs: Sequence[Pair], settings: Settings):
        self.pairs = list(pairs)
        self.settings = settings
        self.images: torch.Tensor | None = None
        self.labels: torch.Tensor | None = None
        self.edges: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def get(self, index: int, box: Box | None = None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if self.images is not None and self.labels is not None and box is None:
            image = self.images[index].expand(self.settings.image_channels, -1, -1)  # grey pictures are held once
            return image, self.labels[index], None if self.edges is None else self.edges[index]
        pair = self.pairs[index]
        image, label = load_channels(pair, self.settings, box), load_label(pair, self.settings, box)
        edges = None if self.settings.no_instance else torch.from_numpy(load_edges(pair, self.settings, box, label))
        return torch.from_numpy(image).expand(self.settings.image_channels, -1, -1), torch.from_numpy(label), edges

    def condition(self, indices: Sequence[int], training: bool = False) -> Condition | None:
        """The condition of these examples, as they are on disk. `training`: a backward pass will follow."""
        _, labels, edges = zip(*(self.get(index) for index in indices), strict=True)
        return make_condition(list(labels), list(edges), self.settings, training=training)

    def microbatch(self, indices: Sequence[int], training: bool = False) -> Microbatch:
        """These examples as they are on disk, for evaluation, or `training`: then a backward pass can follow."""
        images = torch.stack([self.get(index)[0] for index in indices])
        return Microbatch(indices[0], images, self.condition(indices, training))

    def check(self) -> None:
        """Decode every file once; raise UserError with all that are broken or hold values that are no class."""
        self._decode_all(lambda *_: None)

    def hold(self, shared: bool) -> None:
        """Decode every file once, check it, and keep it. `shared`: in memory that worker processes can map.

        Raises UserError.
        """
        held: dict[str, torch.Tensor] = {}

        def room(name: str, like: np.ndarray, channels: tuple[int, ...] = ()) -> torch.Tensor:
            dtype = torch.from_numpy(like).dtype
            held[name] = torch.empty(len(self), *channels, *like.shape[-2:], dtype=dtype)
            return held[name].share_memory_() if shared else held[name]

        def take(index: int, image: np.ndarray, label: np.ndarray, edges: np.ndarray | None) -> None:
            if not held:  # grey pictures are held once, until one is not grey
                room("images", image, (1,))
                room("labels", label)
                if edges is not None:
                    room("edges", edges)
            if label.shape != held["labels"].shape[1:]:
                return  # told when all have been seen
            grey = held["images"]
            if grey.shape[1] < len(image):
                room("images", image, (3,)).copy_(grey)
            held["images"].numpy()[index] = image
            held["labels"].numpy()[index] = label
            if edges is not None:
                held["edges"].numpy()[index] = edges

        self._decode_all(take)
        self.images, self.labels, self.edges = held["images"], held["labels"], held.get("edges")

    def held(self) -> list[torch.Tensor]:
        return [tensor for tensor in (self.images, self.labels, self.edges) if tensor is not None]

    def bytes_needed(self) -> int:
        """An upper bound for what `hold` takes."""
        height, width = self.get(0)[1].shape
        return len(self) * height * width * (3 + 1 + (not self.settings.no_instance))

    def _decode_all(self, take: Callable[[int, np.ndarray, np.ndarray, np.ndarray | None], None]) -> None:
        """Decode and check each example, and hand (index, image [1 or 3, H, W], label, edges) to `take`.

        Raises UserError.
        """
        problems, shapes = [], set()
        with ThreadPoolExecutor(min(8, usable_cores())) as pool:
            for start in range(0, len(self), DECODED_AT_ONCE):
                pairs = self.pairs[start : start + DECODED_AT_ONCE]
                parts = [pairs[first : first + DECODED_BY_ONE] for first in range(0, len(pairs), DECODED_BY_ONE)]
                results = itertools.chain.from_iterable(pool.map(self._decode_each, parts))
                for index, result in enumerate(results, start):
                    if isinstance(result, str):
                        problems.append(result)
                    else:
                        shapes.add(result[1].shape)
                        take(index, *result)
        raise_problems(f"{len(problems)} of {len(self)} label maps or images cannot be trained on:", problems)
        if len(shapes) > 1:
            raise UserError(f"the pictures come out at different sizes (height, width): {sorted(shapes)}")

    def _decode_each(self, pairs: Sequence[Pair]) -> list[Decoded | str]:
        return [self._decode(pair) for pair in pairs]

    def _decode(self, pair: Pair) -> Decoded | str:
        """Image, label and edges of a pair, or what is wrong with its files."""
        no_instance = self.settings.no_instance
        try:
            image, label = read_channels(pair, self.settings), read_label(pair, self.settings)
            instances = None if no_instance or pair.instance_path is None else read_instances(pair)
            for what, beside in (("image", image), ("instance map", instances)):
                if beside is not None and (
                    told := other_aspect(pair, label.shape, what, beside.shape[:2], self.settings)
                ):
                    return told
            if self.settings.random_crop:  # which will see pixels that the whole map loses when it shrinks
                check_classes(label, self.settings.num_classes, pair.label_path)
            image, label = resize_image(image, self.settings), resize_nearest(label, self.settings)
            check_classes(label, self.settings.num_classes, pair.label_path)
            edges = None if no_instance else load_edges(pair, self.settings, labels=label, instances=instances)
        except Exception as error:
            text = one_line(error)
            if text is None:
                raise
            return text
        return image, label, edges


def make_condition(
    labels: Sequence[torch.Tensor],
    edges: Sequence[torch.Tensor | None],
    settings: Settings,
    dropped: torch.Tensor | None = None,
    training: bool = True,
) -> Condition | None:
    """The network's condition from label maps [H, W]; None for an unconditional model.

    `training` False leaves out what only a backward pass on a GPU needs.
    """
    if not settings.class_cond:
        return None
    return Condition.from_labels(
        torch.stack(list(labels)),
        settings.num_classes,
        edges=None if settings.no_instance else torch.stack([edge for edge in edges if edge is not None]),
        dropped=dropped,
        factors=tuple(2**level for level in range(len(settings.multipliers()))),
        mode=settings.modulation,
        training=training,
        patch_size=settings.patch_size,
    )


class TrainingStream(Dataset):
    """Microbatches by (first sample of the run, number of samples); `for_gpu`: with all that a GPU needs to train."""

    def __init__(self, examples: Examples, settings: Settings, for_gpu: bool = False):
        self.examples = examples
        self.settings = settings
        self.for_gpu = for_gpu

    def __getitem__(self, request: tuple[int, int]) -> Microbatch | str:
        """The samples asked for; from a loader process in shared memory or, where they cannot be had, why in a line."""
        if get_worker_info() is None:
            return self.microbatch(*request)
        try:
            microbatch = self.microbatch(*request)
            # Shared here, where an error can be told: the thread that sends them would lose them without a word.
            for tensor in tensors_of(microbatch):
                tensor.share_memory_()
        except Exception as error:
            if "shared memory" in str(error):
                return f"the shared memory in /dev/shm is full: {LESS}"
            text = one_line(error)
            if text is None:
                raise
            return text
        return microbatch

    def microbatch(self, first: int, count: int) -> Microbatch:
        images, labels, edges, dropped = [], [], [], []
        for g in range(first, first + count):
            flip, drop, box = self.augmentation(g)
            image, label, edge = self.examples.get(self.order(g), box)
            if flip:
                image, label, edge = (None if array is None else array.flip(-1) for array in (image, label, edge))
            images.append(image)
            labels.append(label)
            edges.append(edge)
            dropped.append(drop)
        without_label = torch.tensor(dropped) if any(dropped) else None
        condition = make_condition(labels, edges, self.settings, without_label, training=self.for_gpu)
        return Microbatch(first, torch.stack(images), condition)

    def order(self, g: int) -> int:
        """Which example sample `g` of the run is: each once per epoch."""
        epoch, position = divmod(g, len(self.examples))
        if self.settings.deterministic_train:
            return position
        return int(permutation(self.settings.seed, epoch, len(self.examples))[position])

    def augmentation(self, g: int) -> tuple[bool, bool, Box | None]:
        """Whether sample `g` is flipped, whether its label is dropped, and the part of the picture it shows."""
        # Always the same five numbers, so that one setting does not change what another draws.
        draws = torch.rand(5, generator=stream("cpu", self.settings.seed, "augment", g), dtype=torch.float64).tolist()
        flip = self.settings.random_flip and draws[0] < 0.5
        drop = draws[1] < self.settings.drop_rate
        if not self.settings.random_crop:
            return flip, drop, None
        size = SMALLEST_CROP + (1 - SMALLEST_CROP) * draws[2]
        left, top = (1 - size) * draws[3], (1 - size) * draws[4]
        return flip, drop, (left, top, left + size, top + size)


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> torch.Tensor:
    """The order of `n` examples in an epoch."""
    return torch.randperm(n, generator=stream("cpu", seed, "epoch", epoch))
