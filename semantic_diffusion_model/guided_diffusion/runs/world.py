"""This process among all processes of the run, and what they do together."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from command import UserError, one_line
from cores import usable_cores
from out_of_memory import full_memory, is_out_of_memory

# Ranks wait this long for one another. A rank that dies ends the others at once; this is for one that is only slow.
PATIENCE = timedelta(hours=2)
WAITING_SECONDS = 0.5
MOST_RANKS_TOLD = 5


class AgreedError(UserError):
    """A mistake that all ranks know of: rank 0 prints it, and every rank exits by itself."""


@dataclass
class World:
    """This process among all processes of the run. Without others, each method does its work for one.

    cores: those that this rank has for itself.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cores: int = field(default_factory=usable_cores)
    launcher: str = "alone"
    store: dist.Store | None = None
    _gloo: Any = None
    _jobs: int = 0
    _waits: int = 0

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes what belongs to the run."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            self.all_reduce(torch.zeros(1))  # on the CPU: a barrier of NCCL would leave the host running ahead

    def broadcast_object(self, value: Any = None) -> Any:
        """What rank 0 passes in, on every rank (anything that can be pickled)."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all ranks, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._host_group())
        return values

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, in place; the same bits on every rank."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[size * N, ...]: the tensors [N, ...] of all ranks, one after the other."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def share(self, items: Sequence) -> Sequence:
        """This rank's part of `items`, cut by stride: the parts differ by one item at most."""
        return items[self.rank :: self.size]

    def hand_out(self, items: Sequence, piece: int) -> Iterator[Sequence]:
        """Pieces of `items`, of `piece` each, as this rank becomes free for them: over all ranks each piece once.

        Which rank gets a piece depends on the time, what is in it does not. `items` and `piece` must be the same on all
        ranks.
        """
        if self.store is None:
            yield items
            return
        self._jobs += 1
        while (number := self.store.add(f"piece of job {self._jobs}", 1) - 1) * piece < len(items):
            yield items[number * piece : (number + 1) * piece]

    def wait_for_all(self) -> None:
        """A barrier without PATIENCE, for ranks that may be hours apart: one image can take a CPU longer."""
        if self.store is not None:
            self._waits += 1
            here = f"ranks at barrier {self._waits}"
            self.store.add(here, 1)
            while self.store.add(here, 0) < self.size:
                time.sleep(WAITING_SECONDS)
        self.barrier()  # so that the store, which lives with one of them, is there until all have seen it

    def fail_together(self, check: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `check` on every rank and return its value; if it fails on any rank, raise AgreedError on all.

        For what may fail on some nodes only, such as a path that is not mounted there.
        """
        value, text = None, None
        try:
            value = check(*args, **kwargs)
        except Exception as error:
            text = full_memory(error) if is_out_of_memory(error) else one_line(error)
            if text is None:
                raise
        texts = self.gather_objects(text)
        failed = [rank for rank, said in enumerate(texts) if said is not None]
        if failed:
            where = "" if len(failed) == self.size else f" (on rank {failed[0]} of {self.size})"
            raise AgreedError(texts[failed[0]] + where)
        return value

    def must_agree(self, facts: Mapping[str, object]) -> None:
        """Raise AgreedError, on all ranks, where they differ in `facts`: what each found for itself, by name."""
        differences = []
        gathered = self.gather_objects({name: str(value) for name, value in facts.items()})
        for name in facts:
            by_value: dict[str, list[int]] = {}
            for rank, found in enumerate(gathered):
                by_value.setdefault(found[name], []).append(rank)
            if len(by_value) > 1:
                told = "; ".join(f"{value} on {_in_words(ranks)}" for value, ranks in by_value.items())
                differences.append(f"{name} ({told})")
        if differences:
            raise AgreedError(
                f"the ranks differ in {', '.join(differences)}: do all nodes see the same folders, whole and at rest, "
                "and are the devices alike?"
            )

    def _host_group(self):
        # Pickled objects travel as bytes in host memory; the default group of NCCL would put them on the GPU.
        if self.device.type == "cuda" and self._gloo is None:
            self._gloo = dist.new_group(backend="gloo", timeout=PATIENCE)
        return self._gloo


def _in_words(ranks: Sequence[int]) -> str:
    told = ", ".join(map(str, ranks[:MOST_RANKS_TOLD])) + (", …" if len(ranks) > MOST_RANKS_TOLD else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {told}"
