"""What the launchers' environment variables say: recognised, or refused in one line."""

from dataclasses import make_dataclass

import pytest

from command import UserError
from guided_diffusion.runs import environment, launch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, "alone")),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, (3, 4, "mpi")),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (1, 2, "mpi")),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, (0, 1, "alone")),  # a batch script, not srun
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5"}, (5, 8, "mpi")),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, (1, 2, "torchrun")),  # PyTorchJob
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, "alone")),
        (
            {"SLURM_STEP_NUM_TASKS": "1", "RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            (1, 2, "torchrun"),
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            (1, 2, "torchrun"),
        ),
    ],
)
def test_launchers_are_recognised(monkeypatch, variables, expected):
    for name in {*environment.TORCHRUN_ENVIRONMENT, *(name for pair in environment.MPI_ENVIRONMENT for name in pair)}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.environment_rank() == expected


def test_a_rank_that_can_meet_nobody_is_refused(monkeypatch):
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", *(size for size, _ in environment.MPI_ENVIRONMENT)):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="MASTER_ADDR and MASTER_PORT not"):
        environment.environment_rank()


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "first", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
        {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "http"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"PMI_SIZE": "two", "PMI_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": ""},
    ],
)
def test_an_environment_that_names_no_place_is_one_line(monkeypatch, capsys, variables):
    for name in {*environment.TORCHRUN_ENVIRONMENT, *(name for pair in environment.MPI_ENVIRONMENT for name in pair)}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch.run(lambda *_: None, make_dataclass("Settings", [("what", str, "")]), args=[]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: the environment says ") and told.count("\n") == 1
