"""What a launcher's environment variables say: this process's rank, among how many. Starts nothing, needs no torch."""

import os

# Set by the launchers: MPICH and Intel MPI, Open MPI, MVAPICH, and srun where the MPI speaks PMIx.
MPI_ENVIRONMENT = (
    ("PMI_SIZE", "PMI_RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)
TORCHRUN_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def environment_rank() -> tuple[int, int, str]:
    """(rank, size, launcher) as the launcher's environment variables say, without starting anything."""
    if all(name in os.environ for name in TORCHRUN_ENVIRONMENT):
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "torchrun"
    for size, rank in MPI_ENVIRONMENT:
        if size in os.environ:
            return int(os.environ.get(rank, 0)), int(os.environ[size]), "mpi"
    return 0, 1, "alone"
