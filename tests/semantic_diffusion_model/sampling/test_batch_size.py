"""Batches as large as the memory takes: found by trying, and halved where one does not fit."""

import pytest
import torch

from command import UserError
from guided_diffusion.sampling.batch_size import MOST_ON_A_GPU, BatchSize

CPU, GPU = torch.device("cpu"), torch.device("cuda")


ON_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ...")


def work_through(size: BatchSize, count: int, fits: int, full: Exception | None = None) -> list[int]:
    """The sizes of the batches that `count` items end up in, on a device with memory for `fits` of them."""

    def attempt(batch: range) -> int:
        if len(batch) > fits:
            raise full or torch.cuda.OutOfMemoryError("not enough")
        return len(batch)

    done, start = [], 0
    while start < count:
        made = size.attempt(attempt, range(start, min(start + size.value, count)))
        if made is not None:
            done.append(made)
            start += made
    return done


@pytest.mark.parametrize(
    ("asked", "count", "fits", "expected"),
    [
        (0, 200, 1000, [1, 2, 4, 8, 16, 32, 64, 64, 9]),
        (0, 60, 20, [1, 2, 4, 8, 16, 16, 13]),  # 32 did not fit, and is not tried again
        (0, 5, 1, [1, 1, 1, 1, 1]),
        (12, 30, 1000, [12, 12, 6]),
        (12, 30, 5, [3] * 10),  # asked for too much: 12, 6, then 3
        (0, 3, 1000, [1, 2]),
    ],
)
def test_sizes_on_a_gpu(asked, count, fits, expected):
    done = work_through(BatchSize(asked, GPU, 64), count, fits)
    assert done == expected
    assert sum(done) == count and max(done) <= max(asked, MOST_ON_A_GPU)


@pytest.mark.parametrize(
    ("asked", "count", "fits", "expected"),
    [(0, 200, 1000, [64, 64]), (0, 60, 20, [16]), (12, 30, 1000, [12, 12])],
)
def test_convolutions_are_searched_for_the_size_that_comes_again(asked, count, fits, expected):
    """Not for each that is tried, nor for what remains at the end."""
    size, settled = BatchSize(asked, GPU, 64), []

    def attempt(batch: range) -> range:
        if len(batch) > fits:
            raise torch.cuda.OutOfMemoryError("not enough")
        settled.extend([len(batch)] * size.is_settled_at(len(batch)))
        return batch

    start = 0
    while start < count:
        start += len(size.attempt(attempt, range(start, min(start + size.value, count))) or ())
    assert settled == expected


def test_a_single_image_that_does_not_fit_is_told():
    with pytest.raises(UserError, match="^the GPU's memory is too small for one image"):
        work_through(BatchSize(0, GPU, 64), 3, fits=0)


@pytest.mark.parametrize("full", [ON_CPU, MemoryError()], ids=repr)
def test_a_cpu_whose_memory_is_full_takes_fewer_as_well(full):
    assert work_through(BatchSize(0, CPU, 256), 20, 3, full) == [2] * 10
    with pytest.raises(UserError, match=r"^the memory is too small for one image \(.+\): take a smaller network$"):
        work_through(BatchSize(0, CPU, 256), 3, 0, full)


def test_a_cpu_takes_a_modest_batch_or_the_one_asked_for():
    assert [BatchSize(0, CPU, size).value for size in (32, 64, 128, 256, 512, 2048)] == [16, 16, 16, 8, 2, 1]
    assert work_through(BatchSize(0, CPU, 256), 20, 1000) == [8, 8, 4]
    assert BatchSize(7, CPU, 256).value == 7
