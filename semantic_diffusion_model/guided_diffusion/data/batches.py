"""The batches of a rank, from loader processes: as many of these as the cores and /dev/shm have room for."""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader

from command import UserError
from config import Settings
from guided_diffusion.data.loader_processes import start_loader, start_server
from guided_diffusion.data.loading import LESS, Examples, Microbatch, TrainingStream
from guided_diffusion.data.shared_memory import bytes_shared, free_shared_memory, processes_that_fit
from guided_diffusion.runs.world import World

ENOUGH_OPEN_FILES = 1 << 16


@dataclass
class Requests:
    """What a rank asks of the stream: its microbatches of one step after the other, without end."""

    first_sample: int
    global_batch: int
    rank_offset: int
    batch: int
    microbatch: int

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start = self.first_sample + self.rank_offset
        while True:
            for offset in range(0, self.batch, self.microbatch):
                yield start + offset, min(self.microbatch, self.batch - offset)
            start += self.global_batch


class BatchSource:
    """The microbatches of this rank, a step at a time, and the seconds spent waiting for them."""

    def __init__(self, examples: Examples, settings: Settings, world: World, first_sample: int, microbatch: int):
        batch = settings.batch_size_train
        self.per_step = -(-batch // microbatch)
        self.device = world.device
        self.seconds_waited = 0.0
        self.note = ""
        stream = TrainingStream(examples, settings, for_gpu=world.device.type == "cuda")
        workers, ahead = self._fit_processes(stream, worker_count(settings, world), world, (first_sample, microbatch))
        if workers:
            _allow_open_files()
            start_server()
        requests = Requests(first_sample, batch * world.size, batch * world.rank, batch, microbatch)
        loader = DataLoader(
            stream,
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            # A fork would copy the locks of a started MPI, CUDA and thread pools in whatever state they are.
            multiprocessing_context="forkserver" if workers else None,
            prefetch_factor=ahead or None,
            pin_memory=world.device.type == "cuda",
            worker_init_fn=start_loader if workers else None,
            generator=torch.Generator(),  # its own, so that the loader draws nothing from the global one
        )
        self._microbatches = iter(loader)

    def next_step(self) -> list[Microbatch]:
        """This rank's microbatches of the next step, on the device."""
        start = time.perf_counter()
        microbatches = [self._next() for _ in range(self.per_step)]
        self.seconds_waited += time.perf_counter() - start
        return [microbatch.to(self.device) for microbatch in microbatches]

    def _next(self) -> Microbatch:
        try:
            microbatch = next(self._microbatches)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or "Traceback" in str(error):
                raise
            raise UserError(f"a loader process died ({str(error).splitlines()[0]}): {LESS}") from None
        if isinstance(microbatch, str):
            raise UserError(microbatch)
        return microbatch

    def _fit_processes(
        self, stream: TrainingStream, asked: int, world: World, first: tuple[int, int]
    ) -> tuple[int, int]:
        """Loader processes and how far ahead each works, as the shared memory of the node allows; sets `note`."""
        if not any(world.gather_objects(asked)):
            return 0, 0
        # All ranks look before the loaders of any begin.
        room = min(world.gather_objects(free_shared_memory())) // world.local_size
        needed = bytes_shared(stream[first])
        workers, ahead = processes_that_fit(asked, self.per_step, needed, room)
        if workers < asked:
            self.note = (
                f"{workers} loader processes instead of {asked}: /dev/shm leaves {room / 2**20:.0f} MB for each rank, "
                f"a batch takes {needed / 2**20:.1f} MB (docker run --shm-size gives more)"
            )
        return workers, ahead


def _allow_open_files() -> None:
    """Each tensor that comes from a worker is an open file until it is copied: a thousand, the usual limit, is few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_OPEN_FILES if hard == resource.RLIM_INFINITY else min(ENOUGH_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def worker_count(settings: Settings, world: World) -> int:
    """num_workers, capped at the cores there are for each rank; a CPU that trains keeps one core for that."""
    return max(0, min(settings.num_workers, world.cores if world.device.type == "cuda" else world.cores - 1))
