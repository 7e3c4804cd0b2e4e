"""Cores and GPUs of a node among its ranks, bound by a launcher or not."""

import pytest
import torch

import cores as core_limits
import gpu_kernels
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
    assert [share_of_cores(view, views, limit=float("inf")) for view in views] == shares


@pytest.mark.parametrize(
    ("gpus", "indices"),
    [
        (["abcd"] * 4, [0, 1, 2, 3]),
        (["abcd"] * 2, [0, 1]),
        (["a", "b", "c"], [0, 0, 0]),  # srun --gpus-per-task=1: each sees its own as number 0
        (["ab", "cd"], [0, 0]),
        (["ab", "ab", "cd", "cd"], [0, 1, 0, 1]),  # srun --gpu-bind=closest: groups see those beside their cores
        (["abc", "bca", "cab"], [0, 0, 0]),  # the same, each in an order of its own
        (["ab", "ba"], [0, 0]),
        (["a", "ab"], [0, 1]),  # in part the same
    ],
)
def test_no_two_ranks_use_the_same_gpu(gpus, indices):
    views = ranks([range(4)] * len(gpus), gpus)
    chosen = [index_of_gpu(view, views, rank) for rank, view in enumerate(views)]
    assert chosen == indices
    assert len({view.gpus[index] for view, index in zip(views, chosen, strict=True)}) == len(gpus)


@pytest.mark.parametrize(
    ("gpus", "told"),
    [
        (["ab"] * 3, "3 ranks on n1 share 2 GPUs"),
        (["a", "a"], "share 1 GPU:"),
        (["ab", "c", "c"], "2 ranks on n1 share 1 GPU:"),
    ],
)
def test_more_ranks_than_gpus_are_refused(gpus, told):
    views = ranks([range(4)] * len(gpus), gpus)
    for rank, view in enumerate(views):  # each refuses: none waits for another
        with pytest.raises(UserError, match=told):
            index_of_gpu(view, views, rank)


@pytest.mark.parametrize(
    ("files", "groups", "allowed"),
    [
        ({"job/cpu.max": "250000 100000"}, "0::/job\n", 2.5),
        ({"job/cpu.max": "max 100000", "cpu.max": "400000 100000"}, "0::/job\n", 4),
        (
            {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/a/b\n0::/a/b\n",
            1.5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/\n", float("inf")),
        ({}, "0::/\n", float("inf")),
    ],
)
def test_what_a_container_allows_is_found(tmp_path, files, groups, allowed):
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "root").mkdir(exist_ok=True)
    (tmp_path / "groups").write_text(groups)
    assert core_limits.allowed_cores(tmp_path / "groups", tmp_path / "root") == allowed


def test_what_a_container_allows_is_shared_by_its_ranks():
    view = View("h", tuple(range(64)), ())
    assert share_of_cores(view, [view] * 2, limit=5.0) == 2 and share_of_cores(view, [view], limit=5.0) == 5
    assert share_of_cores(view, [view] * 4, limit=2.0) == 1 and share_of_cores(view, [view] * 2, limit=1e9) == 32


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_75", "sm_80", "sm_90", "sm_120"], (7, 0), False),
        (["sm_75", "sm_80", "sm_90", "sm_120"], (8, 6), True),
        (["sm_75", "sm_80", "sm_90", "sm_120"], (9, 0), True),
        (["sm_80", "sm_100"], (9, 0), False),
        (["sm_80", "compute_80"], (9, 0), True),
        (["sm_90a"], (9, 0), True),
        (["sm_86"], (8, 0), False),
    ],
)
def test_a_gpu_that_torch_was_not_built_for_is_refused(monkeypatch, built, capability, runs):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Old GPU")
    if runs:
        gpu_kernels.refuse_gpu_without_kernels(0, "--device cpu")
    else:
        with pytest.raises(UserError, match=r"Old GPU has compute capability .* take --device cpu"):
            gpu_kernels.refuse_gpu_without_kernels(0, "--device cpu")
