"""Training on several ranks: it does not depend on their number, and one signal saves on all."""

import csv
import os
import shutil
import signal
import sys
import time

import pytest
import torch

from guided_diffusion.training import reporting, update
from guided_diffusion.training.loop import train
from guided_diffusion.training.run_log import MACHINE_COLUMNS

STEPS = 5


def travelled(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(sum((one[key] - other[key]).double().square().sum() for key in one).sqrt())


def rows_of(folder) -> list[dict[str, float]]:
    with open(folder / "progress.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in csv.DictReader(file)]
    return [{key: float(value) for key, value in row.items() if value} for row in rows]


@pytest.fixture(scope="module")
def common(tiny, random_weights) -> dict:
    """Settings of a run of five steps of four images, from random weights."""
    changes = {"lr": 1e-3, "lr_anneal_steps": STEPS, "save_interval": STEPS, "log_interval": STEPS}
    changes |= {"resume_checkpoint": str(random_weights), "random_flip": True, "drop_rate": 0.2}
    changes |= {"diffusion_steps": 20, "schedule_sampler": "loss-second-moment"}
    return {name: getattr(tiny(**changes), name) for name in ("datadir", *changes)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, tiny, common):
    """The run on one rank, in this process."""
    folder = tmp_path_factory.mktemp("alone")
    train(tiny(**common, savedir=str(folder), batch_size_train=4), set())
    return folder


@pytest.mark.launch
@pytest.mark.parametrize(
    ("launcher", "changes"),
    [
        (["mpiexec", "-np", "2"], {"batch_size_train": 2, "microbatch": 1}),
        (["mpiexec", "-np", "4"], {"batch_size_train": 1, "distributed_data_parallel": False}),
        (["torchrun", "--standalone", "--nproc-per-node", "2"], {"batch_size_train": 2}),
    ],
    ids=["mpiexec-2", "mpiexec-4", "torchrun-2"],
)
def test_any_number_of_ranks_gives_the_run_of_one(
    launcher, changes, alone, tmp_path, launch, as_flags, tiny_changes, common, random_weights
):
    words = ["image_train.py", *as_flags(**tiny_changes | common | changes, savedir=tmp_path)]
    process = launch(launcher, [sys.executable, *words] if launcher[0] == "mpiexec" else words)
    out = process.finish(200)
    assert process.returncode == 0, out
    start = torch.load(random_weights, weights_only=True)
    for name in (f"model{STEPS:06d}.pt", f"ema_0.9999_{STEPS:06d}.pt"):
        one, many = (torch.load(folder / name, weights_only=True) for folder in (alone, tmp_path))
        distance = travelled(one, start)
        assert distance > 0.1
        assert travelled(one, many) <= 1e-3 * distance
    for ours, theirs in zip(rows_of(tmp_path), rows_of(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert out.count("training images") == 1 and "Traceback" not in out


@pytest.mark.launch
def test_missing_data_is_one_line_from_one_rank(launch, as_flags, tmp_path):
    flags = as_flags(datadir="/nowhere", savedir=tmp_path / "out", device="cpu")
    process = launch(["mpiexec", "-np", "2"], [sys.executable, "image_train.py", *flags])
    out = process.finish()
    assert process.returncode == 2
    assert out.strip().splitlines() == ["error: datadir /nowhere is not a folder"]


@pytest.mark.launch
def test_ranks_that_find_different_folders_do_not_train_together(
    alone, tmp_path, pictures, launch, as_flags, tiny_changes, common
):
    """As on two nodes of which one has neither the run's savedir nor all of the data."""
    shutil.copytree(alone, tmp_path / "here")
    shutil.copytree(pictures, tmp_path / "data")
    for kind in ("images", "sector_annotations"):
        (tmp_path / "data" / kind / "training" / "p3.png").unlink()
    flags = tiny_changes | common | {"lr_anneal_steps": 8, "batch_size_train": 2}
    places = [{"savedir": tmp_path / "here"}, {"savedir": tmp_path / "there", "datadir": tmp_path / "data"}]
    here, there = ([sys.executable, "image_train.py", *as_flags(**flags | place)] for place in places)
    process = launch(["mpiexec", "-np", "1"], [*here, ":", "-np", "1", *there])
    out = process.finish(60)
    assert process.returncode == 2, out
    (told,) = [line for line in out.splitlines() if "error:" in line]
    assert f"the step to go on from ({STEPS} on rank 0; none on rank 1), the training images (10, " in told
    assert "validation" not in told and sorted(tmp_path.glob("*/model*")) == [tmp_path / f"here/model{STEPS:06d}.pt"]


@pytest.mark.launch
def test_a_signal_saves_on_all_ranks_and_the_run_goes_on_as_if_it_had_not_been(
    launch, as_flags, tiny, tiny_changes, tmp_path, pictures, random_weights, monkeypatch
):
    steps = {"save_interval": 1000, "log_interval": 3, "lr": 1e-3, "datadir": str(pictures)}
    steps |= {"resume_checkpoint": str(random_weights)}
    flags = as_flags(**tiny_changes | steps, lr_anneal_steps=0, batch_size_train=1, savedir=tmp_path / "stopped")
    process = launch(["mpiexec", "-np", "2"], [sys.executable, "image_train.py", *flags])
    said = ""
    while "step 3:" not in said and process.poll() is None:
        said += process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    signalled = time.monotonic()
    said += process.finish(90)
    assert process.returncode == 0, said
    assert time.monotonic() - signalled < 90  # before it would be given up
    assert "asked to stop: saved at step" in said
    stopped = int(next((tmp_path / "stopped").glob("opt*.pt")).stem.removeprefix("opt"))
    # Three steps more on one rank, with the same batch in all; against a run that nobody stopped. It had no end, and so
    # a constant rate.
    for module in (update, reporting):
        monkeypatch.setattr(module, "learning_rate", lambda step, settings: settings.lr)
    end = {"lr_anneal_steps": stopped + 3, "batch_size_train": 2}
    train(tiny(**steps, **end, savedir=str(tmp_path / "stopped")), set())
    train(tiny(**steps, **end, savedir=str(tmp_path / "whole")), set())
    start = torch.load(random_weights, weights_only=True)
    last = f"model{stopped + 3:06d}.pt"
    one, other = (torch.load(tmp_path / run / last, weights_only=True) for run in ("stopped", "whole"))
    assert travelled(one, other) <= 1e-3 * travelled(other, start)
    stopped_rows, whole_rows = rows_of(tmp_path / "stopped"), rows_of(tmp_path / "whole")
    assert [row["step"] for row in stopped_rows] == sorted({*range(3, stopped + 4, 3), stopped + 3})
    for ours, theirs in zip(stopped_rows, whole_rows, strict=True):
        assert ours | end == pytest.approx(theirs | end, rel=1e-3)


@pytest.mark.launch
@pytest.mark.parametrize(
    ("ranks", "overlapped"), [(3, True), pytest.param(4, True, marks=pytest.mark.slow), (3, False)]
)
def test_a_run_resumed_on_several_ranks_equals_the_uninterrupted_one_bit_for_bit(
    ranks, overlapped, launch, as_flags, tiny_changes, common, tmp_path
):
    """From three ranks on it matters in which order gradients are added, within DistributedDataParallel too."""
    changes = {"lr_anneal_steps": 6, "save_interval": 3, "num_channels": 64}
    settings = tiny_changes | common | changes | {"distributed_data_parallel": overlapped, "batch_size_train": 1}
    del settings["resume_checkpoint"]
    flags = as_flags(**settings)
    words = [sys.executable, "image_train.py", *flags, "--savedir", str(tmp_path)]
    for _ in range(2):
        process = launch(["mpiexec", "-np", str(ranks)], words)
        out = process.finish(240)
        assert process.returncode == 0, out
        names = [f"model{6:06d}.pt", f"ema_0.9999_{6:06d}.pt"]
        ends = [torch.load(tmp_path / name, weights_only=True) for name in names]
        if "going on from step 3" in out:
            break
        whole = ends
        words += ["--use_checkpoint", "False"]  # the gradients come in the same order
        for path in tmp_path.glob("*000006.pt"):
            path.unlink()
    for one, other in zip(whole, ends, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
