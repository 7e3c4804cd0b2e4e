"""Worker processes that end when the process they work for is gone, however it ended.

This small file stands in each of the three script folders, which do not import one another.
"""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Call in a worker process: from then on it ends as soon as the process that started it does, by kill -9 too.

    Under a fork server that is not the parent by the system's count, which only goes when the last worker does: what
    is waited for is a pipe that the starting process alone holds open.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True, name="orphans").start()


def _end_after(parent) -> None:
    parent.join()
    os._exit(1)  # whatever the worker is at: there is nobody left to tell
