"""Being asked to stop, by a cluster or by Ctrl-C: all ranks stop at the same step, or exit in time."""

import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import torch
import torch.distributed as dist

from guided_diffusion.runs.environment import call_when_launcher_is_gone
from guided_diffusion.runs.world import AgreedError, World

GIVEN_UP_EXIT_CODE = 1
INTERRUPTED_EXIT_CODE = 130  # as of whatever ends by Ctrl-C: a script does not go on
ONCE_MORE = 2.0  # seconds: a terminal and a launcher may both pass the same Ctrl-C on


class StopRequest:
    """SIGTERM or SIGUSR1 (a cluster about to preempt the job), Ctrl-C, or a launcher that is gone: all ranks stop at a
    step. A second Ctrl-C raises KeyboardInterrupt, as the first one does elsewhere.

    If there is no sign of life for `grace` seconds, the process exits as it is, with a code that says so: the last
    checkpoint on disk is whole, and a cluster would soon kill it anyway.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, world: World, grace: float):
        self.world = world
        self.grace = grace
        self._asked = False
        self._interrupted_at: float | None = None
        self._heard = threading.Event()
        self._last_sign = time.monotonic()
        self._flag = torch.zeros(1)
        self._pending = None

    def __enter__(self) -> "StopRequest":
        # A Python handler runs only between two byte codes of the main thread, which may be waiting for another rank
        # or a long convolution. The wake-up file is written when the signal arrives, and a thread reads it.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        handlers = dict.fromkeys(self.SIGNALS, lambda *_: None)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in the background of a script
            handlers[signal.SIGINT] = self._interrupted
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()
        call_when_launcher_is_gone(self._launcher_is_gone)
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
            if any(number in numbers for number in self._before):
                break
        if signal.SIGINT in numbers and self.world.is_main and not self._heard.is_set():
            print("\ninterrupted: saving at the end of this step; Ctrl-C again ends at once", flush=True)
        self._asked = True
        self.alive()  # the time counts from here
        while not self._heard.wait(max(0.0, self._last_sign + self.grace - time.monotonic())):
            if time.monotonic() - self._last_sign >= self.grace:
                print(
                    f"rank {self.world.rank}: asked to stop, and no sign of life for {self.grace:g} s: exiting without "
                    "a checkpoint (--stop_grace gives more time)",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(GIVEN_UP_EXIT_CODE)

    def _interrupted(self, *_: Any) -> None:
        """Nothing is printed here, where a line may be under way already."""
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
        elif now - self._interrupted_at > (ONCE_MORE if self.world.size > 1 else 0):
            raise KeyboardInterrupt

    def exit_code(self) -> int:
        """Of a process that has saved what it had. Of one rank alone: launchers end the others where one fails."""
        return INTERRUPTED_EXIT_CODE if self._interrupted_at is not None and self.world.is_main else 0

    def _launcher_is_gone(self) -> None:
        if not self._heard.is_set():
            os.kill(os.getpid(), self.SIGNALS[0])

    def alive(self) -> None:
        """Call wherever something is done on the way to the end of a step: part of a batch, say."""
        self._last_sign = time.monotonic()

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
        self.alive()
        if stop:
            self._heard.set()  # from here on the loop sees to it
        return stop
