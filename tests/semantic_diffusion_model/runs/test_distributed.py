"""Ranks for real: who is who, one error text, ends in time."""

import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from guided_diffusion.runs import distributed, launch

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


def test_a_gpu_that_cuda_cannot_start_is_none(monkeypatch):
    """As with a driver that is too old: it is counted without CUDA, and asking it for its name would raise."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.start("auto").device.type == "cpu"
    with pytest.raises(distributed.UserError, match="no GPU"):
        distributed.start("cuda")


def test_full_memory_is_one_line_wherever_it_is_met(capsys):
    def main(settings, given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore advice.")

    assert distributed.run_on_all_ranks(main, None, set()) == 2
    said = (
        "error: the memory is full (CUDA out of memory. Tried to allocate 2.00 GiB.): is other work on this device?\n"
    )
    assert capsys.readouterr().err == said


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
    if settings.what in ("bug", "private"):
        if world.rank == 1:
            raise ValueError("a bug of ours") if settings.what == "bug" else UserError("no such picture")
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


@pytest.mark.launch
def test_ranks_exchange_and_a_mistake_on_one_is_one_line(tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = launch(["mpiexec", "-np", "2"], [sys.executable, str(tmp_path / "script.py"), "--what", "facts"])
    out = process.finish()
    assert process.returncode == 2, out
    assert out.strip().splitlines() == ["error: no such path (on rank 1 of 2)"]


DIFFERENT = """
import sys
from dataclasses import dataclass
import torch
from guided_diffusion.runs import distributed, launch

@dataclass
class Settings:
    what: str = ""

def main(settings, given):
    if settings.what == "devices":
        take_place = distributed._take_place
        def mixed(world, device):
            take_place(world, device)
            world.device = torch.device("cuda", 0) if world.rank == 0 else world.device
        distributed._take_place = mixed
    world = distributed.start("cpu")
    world.must_agree({"the step": 7})
    world.must_agree({"the step": world.rank, "the precision": "bf16", "the weights": f"w{world.rank // 2}"})

sys.exit(launch.run(main, Settings))
"""


@pytest.mark.launch
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("facts", "the step (0 on rank 0; 1 on rank 1; 2 on rank 2), the weights (w0 on ranks 0, 1; w1 on rank 2): "),
        ("devices", "1 of 3 ranks have a GPU, rank 1 has none: "),
    ],
)
def test_what_ranks_found_for_themselves_is_compared(tmp_path, launch, what, words):
    (tmp_path / "script.py").write_text(DIFFERENT)
    process = launch(["mpiexec", "-np", "3"], [sys.executable, str(tmp_path / "script.py"), "--what", what])
    out = process.finish()
    assert process.returncode == 2, out
    assert len(out.strip().splitlines()) == 1 and out.startswith("error: ") and words in out


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
    out = process.finish()
    assert process.returncode == 0 and out.count("done") == 2, out


def unlaunched(launch, script: Path, what: str) -> tuple[list[int], str]:
    """Two ranks of a script that nobody launched, as under Kubernetes' PyTorchJob: RANK and the address of rank 0, no
    LOCAL_RANK. Both are on this host. Their exit codes, and what they said."""
    words = [sys.executable, str(script), "--what", what]
    for _ in range(2):  # between the look and the use another process may take the port
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [launch([], words, **variables, RANK=str(rank)) for rank in range(2)]
        said = ranks[0].finish()
        if "address already in use" not in said:
            break
        ranks[1].kill()
    said += ranks[1].finish()
    return [rank.returncode for rank in ranks], said


@pytest.mark.launch
def test_ranks_that_nobody_launched_meet_by_their_environment(tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT.replace('"mpi"', '"torchrun"'))
    codes, said = unlaunched(launch, tmp_path / "script.py", "facts")
    assert codes == [2, 2], said
    assert said.strip().splitlines() == ["error: no such path (on rank 1 of 2)"]


@pytest.mark.launch
@pytest.mark.parametrize(
    ("what", "code", "told"), [("private", 2, "error: no such picture"), ("bug", 1, "a bug of ours")]
)
def test_a_rank_that_nobody_launched_says_in_a_line_that_another_has_ended(tmp_path, launch, what, code, told):
    (tmp_path / "script.py").write_text(SCRIPT)
    codes, said = unlaunched(launch, tmp_path / "script.py", what)
    assert codes == [1, code], said
    assert "rank 0 of 2: another rank has ended, and says why\n" in said and told in said
    assert said.count("Traceback") == (what == "bug") and "closed by peer" not in said


@pytest.mark.launch
def test_a_bug_on_one_rank_ends_all_within_ten_seconds_with_one_traceback(tmp_path, launch):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = launch(["mpiexec", "-np", "2"], [sys.executable, str(tmp_path / "script.py"), "--what=bug"])
    started = time.monotonic()
    out = process.finish(40)
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
    out = process.finish()
    assert process.returncode == 2, out
    assert out.count("error:") == 1 and "started 2 processes" in out
    assert not (tmp_path / "out").exists()
