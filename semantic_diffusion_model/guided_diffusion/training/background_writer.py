"""Checkpoints written beside the training: the step waits for a copy in memory, not for the disk."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


class BackgroundWriter:
    """Does one job after the other in a thread. Leaving its `with` block waits for the last one.

    An error of a job is raised at the next `check`, or where the job is waited for.
    """

    def __init__(self):
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: Future | None = None

    def submit(self, job: Callable[..., object], *arguments: Any) -> None:
        """Start job(*arguments) once the job before is done."""
        self.wait()
        self._pending = self._thread.submit(job, *arguments)

    def wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raise the error of a job that has failed; wait for nothing."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self.wait()
        except Exception:
            if kind is None:  # else the error that ends the block is the one to tell
                raise
        finally:
            self._thread.shutdown()


def snapshot(tree: Any) -> Any:
    """Nested dictionaries, lists and tuples with every tensor copied to the host's memory."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: snapshot(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(snapshot(value) for value in tree)
    return tree
