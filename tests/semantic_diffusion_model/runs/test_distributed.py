"""Ranks for real: who is who, one error text, ends in time; training that does not depend on their number."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from guided_diffusion.runs import distributed, launch
from guided_diffusion.training.loop import train
from guided_diffusion.training.run_log import MACHINE_COLUMNS

STEPS = 5


def finish(process: subprocess.Popen, seconds: float = 120) -> str:
    """All that `process` printed; the test fails if it takes longer."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"still running after {seconds} s:\n{process.communicate()[0]}")


# --- In this process --------------------------------------------------------------------------------------------------


def test_flags_that_were_given():
    args = ["--img_size", "64", "--lr=1e-3", "--random-flip", "True", "--s", "-1.5"]
    assert launch.given_flags(args) == {"img_size", "lr", "random_flip", "s"}


def test_a_world_of_one_does_its_work_alone():
    world = distributed.start("cpu")
    assert (world.rank, world.size, world.device.type) == (0, 1, "cpu")
    assert world.gather_objects("a") == ["a"] and world.broadcast_object(3) == 3
    assert world.share([1, 2, 3]) == [1, 2, 3]
    assert world.fail_together(int, "7") == 7


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert distributed.start("auto").device.type == "cpu"
    with pytest.raises(distributed.UserError, match="no GPU"):
        distributed.start("cuda")


# --- Processes --------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from dataclasses import dataclass
import torch
from command import UserError
from guided_diffusion.runs import distributed, launch

@dataclass
class Settings:
    what: str = ""

def fail_on_one(world):
    if world.rank == 1:
        raise UserError("no such path")

def main(settings, given):
    world = distributed.start("cpu")
    if settings.what == "bug":
        if world.rank == 1:
            raise ValueError("a bug of ours")
        world.barrier()
        time.sleep(60)
    parts = world.all_gather(torch.tensor([world.rank]))
    facts = (world.rank, world.size, world.local_rank, world.local_size, world.launcher, given)
    assert world.gather_objects(facts) == [(r, 2, r, 2, "mpi", {"what"}) for r in range(2)]
    assert world.broadcast_object("zero" if world.rank == 0 else None) == "zero"
    assert float(world.all_reduce(torch.tensor([1.0 + world.rank]))) == 3
    assert parts.tolist() == [0, 1]
    assert list(world.share(range(5))) == [[0, 2, 4], [1, 3]][world.rank]
    assert world.fail_together(lambda: 5 + world.rank) == 5 + world.rank
    world.fail_together(fail_on_one, world)

sys.exit(launch.run(main, Settings))
"""


STUCK = """
import time
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.runs.world import World

with StopRequest(World(), grace=1.0):
    print("ready", flush=True)
    time.sleep(60)
"""


ALIVE = """
import os, signal, time
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.runs.world import World

with StopRequest(World(), grace=1.5) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(8):  # parts of a step that takes three seconds
        time.sleep(0.4)
        stop.alive()
    print("stopped", stop.agreed())
    time.sleep(3)  # what follows is the loop's to see to
"""


def test_a_long_step_with_signs_of_life_comes_to_its_end(launch):
    process = launch([], [sys.executable, "-c", ALIVE])
    assert finish(process, 60) == "stopped True\n" and process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_where_no_step_ends_the_process_exits_in_time(launch, number):
    process = launch([], [sys.executable, "-c", STUCK])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    started = time.monotonic()
    assert "no sign of life for 1 s: exiting without a checkpoint" in finish(process, 20)
    assert process.returncode == 1
    assert 0.9 < time.monotonic() - started < 5


@pytest.mark.launch
def test_ranks_exchange_and_a_mistake_on_one_is_one_line(tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = launch(["mpiexec", "-np", "2"], [sys.executable, str(tmp_path / "script.py"), "--what", "facts"])
    out = finish(process)
    assert process.returncode == 2, out
    assert out.strip().splitlines() == ["error: no such path (on rank 1 of 2)"]


LEFT_OVER = """
import os, sys
import torch
from dataclasses import dataclass
from guided_diffusion.runs import distributed, launch

@dataclass
class Settings:
    what: str = ""

class LeftOver:  # like a thread of the process group that meets an interpreter half taken down
    def __del__(self, abort=os.abort):
        abort()

sys.left_over = LeftOver()  # until the very end

def main(settings, given):
    world = distributed.start("cpu")
    print("done" if float(world.all_reduce(torch.ones(1))) == 2 else "wrong")

sys.exit(launch.run(main, Settings))
"""


@pytest.mark.launch
@pytest.mark.parametrize(
    "launcher",
    [["mpiexec", "-np", "2"], ["torchrun", "--standalone", "--nproc-per-node", "2"]],
    ids=["mpi", "torchrun"],
)
def test_what_is_left_over_does_not_end_a_finished_command_with_an_abort(tmp_path, launch, launcher):
    (tmp_path / "script.py").write_text(LEFT_OVER)
    process = launch(launcher, [*([sys.executable] if launcher[0] == "mpiexec" else []), str(tmp_path / "script.py")])
    out = finish(process)
    assert process.returncode == 0 and out.count("done") == 2, out


@pytest.mark.launch
def test_ranks_that_nobody_launched_meet_by_their_environment(tmp_path, launch):
    """As under Kubernetes' PyTorchJob: RANK and the address of rank 0, no LOCAL_RANK. Both are on this host."""
    (tmp_path / "script.py").write_text(SCRIPT.replace('"mpi"', '"torchrun"'))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, str(tmp_path / "script.py"), "--what", "facts"]
    ranks = [launch([], words, **variables, RANK=str(rank)) for rank in range(2)]
    said = "".join(finish(rank) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert said.strip().splitlines() == ["error: no such path (on rank 1 of 2)"]


@pytest.mark.launch
def test_a_bug_on_one_rank_ends_all_within_ten_seconds_with_one_traceback(tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = launch(["mpiexec", "-np", "2"], [sys.executable, str(tmp_path / "script.py"), "--what=bug"])
    started = time.monotonic()
    out = finish(process, 40)
    assert process.returncode not in (0, 2)
    assert out.count("Traceback") == 1 and out.count("ValueError: a bug of ours") == 1
    assert "rank 1 of 2 failed" in out
    assert time.monotonic() - started < 10 + 15  # the start of two processes on a busy machine included


@pytest.mark.launch
@pytest.mark.parametrize(
    "environment",
    [
        {"PMIX_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_SIZE": "2", "PMI_RANK": "0"},
    ],
    ids=["Open MPI", "unreachable"],
)
def test_a_launcher_of_another_mpi_is_refused(environment, launch, as_flags, pictures, tmp_path):
    """The environment says two ranks, MPI says one: as where mpiexec and mpi4py belong to different MPIs."""
    words = [sys.executable, "image_train.py", *as_flags(datadir=pictures, savedir=tmp_path / "out", device="cpu")]
    process = launch([], words, **environment)
    out = finish(process)
    assert process.returncode == 2, out
    assert out.count("error:") == 1 and "started 2 processes" in out
    assert not (tmp_path / "out").exists()


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
    out = finish(process, 200)
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
    out = finish(process)
    assert process.returncode == 2
    assert out.strip().splitlines() == ["error: datadir /nowhere is not a folder"]


@pytest.mark.launch
def test_a_signal_saves_on_all_ranks_and_the_run_goes_on_as_if_it_had_not_been(
    launch, as_flags, tiny, tiny_changes, tmp_path, pictures, random_weights
):
    steps = {"lr_anneal_steps": 16, "save_interval": 1000, "log_interval": 3, "lr": 1e-3, "datadir": str(pictures)}
    steps |= {"resume_checkpoint": str(random_weights)}
    flags = as_flags(**tiny_changes | steps, batch_size_train=1, savedir=tmp_path / "stopped")
    process = launch(["mpiexec", "-np", "2"], [sys.executable, "image_train.py", *flags])
    said = ""
    while "step 3:" not in said and process.poll() is None:
        said += process.stdout.readline()
    os.kill(process.pid, signal.SIGTERM)
    signalled = time.monotonic()
    said += finish(process, 30)
    assert process.returncode == 0, said
    assert time.monotonic() - signalled < 90  # before it would be given up
    assert "asked to stop: saved at step" in said
    stopped = int(next((tmp_path / "stopped").glob("opt*.pt")).stem.removeprefix("opt"))
    assert 3 < stopped < 16
    # On one rank, with the same batch in all, to the end; against a run that nobody stopped.
    train(tiny(**steps, batch_size_train=2, savedir=str(tmp_path / "stopped")), set())
    train(tiny(**steps, batch_size_train=2, savedir=str(tmp_path / "whole")), set())
    start = torch.load(random_weights, weights_only=True)
    one, other = (torch.load(tmp_path / run / "model000016.pt", weights_only=True) for run in ("stopped", "whole"))
    assert travelled(one, other) <= 1e-3 * travelled(other, start)
    stopped_rows, whole_rows = rows_of(tmp_path / "stopped"), rows_of(tmp_path / "whole")
    assert [row["step"] for row in stopped_rows] == [3, 6, 9, 12, 15, 16]
    for ours, theirs in zip(stopped_rows, whole_rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.launch
@pytest.mark.parametrize(
    ("ranks", "overlapped"), [(3, True), pytest.param(4, True, marks=pytest.mark.slow), (3, False)]
)
def test_a_run_resumed_on_several_ranks_equals_the_uninterrupted_one_bit_for_bit(
    ranks, overlapped, launch, as_flags, tiny_changes, common, tmp_path
):
    """From three ranks on it matters in which order gradients are added, within DistributedDataParallel too."""
    changes = {"lr_anneal_steps": 6, "save_interval": 3, "num_channels": 64, "resume_checkpoint": ""}
    flags = as_flags(**tiny_changes | common | changes, distributed_data_parallel=overlapped, batch_size_train=1)
    words = [sys.executable, "image_train.py", *flags, "--savedir", str(tmp_path)]
    for _ in range(2):
        process = launch(["mpiexec", "-np", str(ranks)], words)
        out = finish(process, 240)
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
