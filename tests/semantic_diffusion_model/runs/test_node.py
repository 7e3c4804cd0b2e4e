"""Cores and GPUs of a node among its ranks, bound by a launcher or not."""

import pytest

from command import UserError
from guided_diffusion.runs.node import View, index_of_gpu, share_of_cores


def ranks(cores, gpus):
    return [View("n1", tuple(own), tuple(uuids)) for own, uuids in zip(cores, gpus, strict=True)]


@pytest.mark.parametrize(
    ("cores", "shares"),
    [
        ([range(8)] * 4, [2, 2, 2, 2]),  # all may run anywhere
        ([range(4), range(4, 8)], [4, 4]),  # bound by the launcher: not divided again
        ([range(3)] * 2, [1, 1]),
        ([range(2)] * 3, [1, 1, 1]),  # more ranks than cores
        ([range(4), range(4), range(4, 10)], [2, 2, 6]),
    ],
)
def test_each_core_is_divided_once(cores, shares):
    views = ranks(cores, [()] * len(cores))
    assert [share_of_cores(view, views) for view in views] == shares


@pytest.mark.parametrize(
    ("gpus", "indices"),
    [
        (["abcd"] * 4, [0, 1, 2, 3]),
        (["abcd"] * 2, [0, 1]),
        (["a", "b", "c"], [0, 0, 0]),  # srun --gpus-per-task=1: each sees its own as number 0
        (["ab", "cd"], [0, 0]),
    ],
)
def test_no_two_ranks_use_the_same_gpu(gpus, indices):
    views = ranks([range(4)] * len(gpus), gpus)
    chosen = [index_of_gpu(view, views, rank) for rank, view in enumerate(views)]
    assert chosen == indices
    assert len({view.gpus[index] for view, index in zip(views, chosen, strict=True)}) == len(gpus)


@pytest.mark.parametrize(("gpus", "told"), [(["ab"] * 3, "3 ranks on n1 share 2 GPUs"), (["a", "a"], "share 1 GPU:")])
def test_more_ranks_than_gpus_are_refused(gpus, told):
    views = ranks([range(4)] * len(gpus), gpus)
    with pytest.raises(UserError, match=told):
        [index_of_gpu(view, views, rank) for rank, view in enumerate(views)]
