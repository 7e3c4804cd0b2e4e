"""What a launcher's environment variables say: this process's rank, among how many. Starts nothing, needs no torch."""

import os
import select
import threading
from collections.abc import Callable

from command import UserError

# Set by the launchers: MPICH and Intel MPI, Open MPI, MVAPICH, and srun where the MPI speaks PMIx.
MPI_ENVIRONMENT = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
TORCHRUN_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment_rank() -> tuple[int, int, str]:
    """(rank, size, launcher) as the launcher's environment variables say, without starting anything.

    "torchrun" stands for whatever sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT: torchrun itself, and with fewer
    variables Kubernetes' PyTorchJob. Raises UserError for a RANK among several that nobody can be met with, and for
    variables that hold no rank of so many.
    """
    if not os.environ.get("MASTER_PORT", "0").isdecimal():
        raise UserError(f"the environment says MASTER_PORT={os.environ['MASTER_PORT']}, which is no port: unset it")
    if all(name in os.environ for name in TORCHRUN_ENVIRONMENT):
        return *place("RANK", "WORLD_SIZE"), "torchrun"
    several = "RANK" in os.environ and place("RANK", "WORLD_SIZE")[1] > 1
    for size, rank in MPI_ENVIRONMENT:
        if size in os.environ and not (several and place(rank, size)[1] == 1):
            return *place(rank, size), "mpi"
    if several:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(
                f"RANK and WORLD_SIZE {os.environ['WORLD_SIZE']} are set, {' and '.join(missing)} not: each process "
                "would work alone in one folder. Set them, start by mpiexec or torchrun, or unset RANK"
            )
        return *place("RANK", "WORLD_SIZE"), "torchrun"
    return 0, 1, "alone"


def place(rank_name: str, size_name: str) -> tuple[int, int]:
    """(rank, size) from two environment variables; 0 of 1 where unset. Raises UserError for what is no such place."""
    rank, size = (os.environ.get(name, default) for name, default in ((rank_name, "0"), (size_name, "1")))
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < max(1, int(size))):
        raise UserError(
            f"the environment says {rank_name}={rank} and {size_name}={size}, which is no rank of so many processes: "
            "unset them, or start by mpiexec or torchrun"
        )
    return int(rank), max(1, int(size))


def call_when_launcher_is_gone(function: Callable[[], object]) -> None:
    """Have `function` called, in a thread, once torchrun is gone: it does not end its ranks when it is killed."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    try:
        launcher = os.pidfd_open(os.getppid())
    except (AttributeError, OSError):  # an old kernel; or gone already
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(launcher)
        poll.poll()
        function()

    threading.Thread(target=wait, daemon=True, name="launcher").start()
