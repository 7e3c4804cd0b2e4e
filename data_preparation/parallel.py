"""The same function over many items, in this process or in several, with a progress bar."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from command import UserError
from cores import usable_cores
from orphans import end_with_parent
from progress import track

CHUNKS_PER_WORKER = 16
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def default_workers() -> int:
    """As many as cores that this process may use, at most 16: more would wait for the disk."""
    return min(usable_cores(), 16)


def for_each(function: Callable[[Any], Any], items: Sequence, num_workers: int, description: str) -> Iterator:
    """Yield function(item) of each item, in order.

    `num_workers` 0 works in this process. Otherwise `function` and what it returns must be picklable. Workers are
    started afresh (spawned), because the threads of libraries do not survive a fork. An exception raised in a
    worker is raised here; UserError if a worker was killed.
    """
    if num_workers < 0:
        raise UserError(f"--num_workers {num_workers}: must be 0 (work in this process) or more")
    num_workers = min(num_workers, len(items))
    if num_workers == 0:
        yield from track(map(function, items), description, len(items))
        return
    chunk = max(1, len(items) // (num_workers * CHUNKS_PER_WORKER))
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        with _environment(ONE_THREAD), _interrupts_ignored():
            results = pool.map(function, items, chunksize=chunk)
        yield from track(results, description, len(items))
    except BrokenProcessPool:
        raise UserError("a worker process was killed (out of memory?): try a smaller --num_workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes started in the block: NumPy reads them when it is imported."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Of the processes started in the block, from their first moment on: Ctrl-C is left to the parent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    """One thread per worker, which ends with its parent."""
    end_with_parent()
    cv2.setNumThreads(0)
