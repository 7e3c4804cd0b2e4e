"""From cases to batches, where order and augmentation depend on (seed, pass over the cases, place in it) alone."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cores import usable_cores
from dataset import CaseSet
from orphans import end_with_parent
from transforms import augment, training_transform

ORDER_STREAM, AUGMENT_STREAM = 0, 1
AHEAD = 2  # batches that a loader process prepares
SHM_SHARE = 0.8  # of what is free in /dev/shm


class AddressedCases(Dataset):
    """Cases by address (pass over the cases, place among those it draws): image and label, (size, size) uint8 arrays.

    A case that is drawn twice in a pass has two places, and so two augmentations.
    """

    def __init__(self, case_set: CaseSet, seed: int, augmented: bool):
        self.case_set, self.seed = case_set, seed
        self.transform = training_transform() if augmented else None

    def __getitem__(self, address: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        number, place = address
        image, label = self.case_set[self.case_set.drawn[place]]
        if self.transform is not None:
            image, label = augment(self.transform, image, label, (self.seed, AUGMENT_STREAM, number, place))
        return image, label


def collate(cases: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels, each (batch, size, size) uint8. NumPy stacks them: torch would wake its threads for it."""
    batch = tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*cases, strict=True))
    if get_worker_info() is not None:  # shared here, where an error is told: the thread that sends them would lose it
        for tensor in batch:
            tensor.share_memory_()
    return batch


class EpochBatches:
    """Batches of addresses for one epoch, a pass over which draws `cases`; set `epoch` before each.

    An epoch is a pass over the cases or, of `updates` batches, begins where the one before ended, in the middle of a
    pass or not. A pass is cut into batches of equal size, or one less: no small rest that would disturb batch
    normalisation.
    """

    def __init__(self, cases: int, batch_size: int, seed: int, shuffle: bool, updates: int = 0):
        self.cases, self.seed, self.shuffle, self.epoch = cases, seed, shuffle, 0
        self.batches_of_pass = -(-cases // batch_size)
        self.batches = updates or self.batches_of_pass

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = (self.epoch - 1) * self.batches  # of all batches since the first epoch, which is 1
        for place in range(first, first + self.batches):
            number, batch = 1 + place // self.batches_of_pass, place % self.batches_of_pass
            if batch == 0 or place == first:
                batches = self.batches_of(number)
            yield [(number, int(index)) for index in batches[batch]]

    def batches_of(self, number: int) -> list[np.ndarray]:
        """The cases of one pass, in its order, by batch."""
        order = np.arange(self.cases)
        if self.shuffle:
            order = np.random.default_rng([self.seed, ORDER_STREAM, number]).permutation(order)
        return np.array_split(order, self.batches_of_pass)


def worker_count(asked: int, in_memory: bool, device: torch.device) -> int:
    """Loader processes worth having: at most one per core. None where the network computes on the same cores and no
    file is to be decoded: augmentation (0.2 ms an image at 128 x 128) is then a few per cent of a step.
    """
    if in_memory and device.type == "cpu":
        return 0
    return min(asked, usable_cores())


def processes_that_fit(asked: int, batch_bytes: int, free_bytes: int) -> int:
    """As many of the loader processes asked for as `free_bytes` of shared memory suffice for: of the batches in flight
    each process prepares AHEAD, and two are in use.
    """
    return max(0, min(asked, int((SHM_SHARE * free_bytes / max(batch_bytes, 1) - 2) // AHEAD)))


def free_shared_memory() -> int:
    """Bytes that are free in /dev/shm; 0 if there is none."""
    try:
        status = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def _start_worker(_: int) -> None:
    end_with_parent()


def make_loader(
    case_set: CaseSet,
    batch_size: int,
    device: torch.device,
    num_workers: int,
    pin_memory: bool,
    seed: int = 0,
    shuffle: bool = False,
    augmented: bool = False,
    updates: int = 0,
) -> DataLoader:
    """Batches of (images, labels), (batch, size, size) uint8. An epoch has `updates` of them (0: those of a pass).
    Set `loader.batch_sampler.epoch` before each.
    """
    asked = worker_count(num_workers, case_set.arrays is not None, device)
    batch_bytes = 2 * min(batch_size, len(case_set.drawn)) * case_set.size**2
    workers = processes_that_fit(asked, batch_bytes, free_shared_memory())
    if workers < asked:
        print(f"{workers} loader processes instead of {asked}: /dev/shm has no room for more batches")
    return DataLoader(
        AddressedCases(case_set, seed, augmented),
        batch_sampler=EpochBatches(len(case_set.drawn), batch_size, seed, shuffle, updates),
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=AHEAD if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin_memory and device.type == "cuda",
        generator=torch.Generator(),  # its own: it would draw from the global one, once, and resuming would differ
    )
