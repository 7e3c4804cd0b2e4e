"""Being asked to stop, by a cluster about to preempt the job: all ranks stop at the same step, or exit in time."""

import os
import signal
import socket
import sys
import threading
from typing import Any

import torch
import torch.distributed as dist

from guided_diffusion.runs.world import AgreedError, World


class StopRequest:
    """SIGTERM or SIGUSR1 (a cluster about to preempt the job): asks all ranks to stop at the same step.

    If no step ends within `grace` seconds, the process exits as it is: the last checkpoint on disk is whole, and a
    cluster would soon kill it anyway.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, world: World, grace: float = 8.0):
        self.world = world
        self.grace = grace
        self._asked = False
        self._heard = threading.Event()
        self._flag = torch.zeros(1)
        self._pending = None

    def __enter__(self) -> "StopRequest":
        # A Python handler runs only between two byte codes of the main thread, which may be waiting for another rank
        # or a long convolution. The wake-up file is written when the signal arrives, and a thread reads it.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in self.SIGNALS}
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self._heard.set()
        if self._pending is not None and (kind is None or issubclass(kind, AgreedError)):
            self._pending.wait()  # every rank comes here; the connection must not be closed under way
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.close()

    def _watch(self) -> None:
        while True:
            numbers = self._reader.recv(16)
            if not numbers:
                return
            if any(number in numbers for number in self.SIGNALS):
                break
        self._asked = True
        if not self._heard.wait(self.grace):
            print(f"rank {self.world.rank}: no step ended within {self.grace:g} s of the signal", file=sys.stderr)
            sys.stderr.flush()
            os._exit(0)

    def finishing(self) -> None:
        """The last step is done: a signal that comes now leaves the process the time to write what it has."""
        self._heard.set()

    def agreed(self) -> bool:
        """Call after each step, on every rank: True, on all ranks at the same step, once any was asked to stop.

        With several ranks the answer is that of the call before, so that no rank waits for another here.
        """
        if self.world.size == 1:
            stop = self._asked
        else:
            stop = False
            if self._pending is not None:
                self._pending.wait()
                stop = bool(self._flag)
            self._flag = torch.tensor([float(self._asked)])
            self._pending = dist.all_reduce(self._flag, async_op=True)
        if self._asked or stop:
            self._heard.set()  # a step has ended: from here on the loop sees to it
        return stop
