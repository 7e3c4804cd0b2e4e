"""The loader processes of a training: they leave signals to it, and are gone when it is."""

import atexit
import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker

import torch

from orphans import end_with_parent

# What ends or stops a job is sent to all its processes. The training answers; it needs its loaders until it has.
LEFT_TO_THE_TRAINING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def start_server() -> None:
    """Start the fork server, and the process that tracks its resources, deaf to these signals.

    A mask of blocked signals is inherited by all that the server forks, so there is no moment at which a loader could
    be hit. (Handlers would come too late: a new process has the default ones.)
    """
    with _blocked():
        resource_tracker.ensure_running()  # which lifts the mask when it has started
    with _blocked():
        forkserver.ensure_running()
    # A loader that is stuck does not hear SIGTERM either, and the interpreter waits for it at its end.
    atexit.register(_kill_loaders)


def start_loader(_: int) -> None:
    """The first thing that a loader does."""
    torch.set_num_threads(1)
    end_with_parent()


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_TRAINING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill_loaders() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would report the death
    for loader in multiprocessing.active_children():
        loader.kill()
