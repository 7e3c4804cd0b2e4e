"""On PYTHONPATH, this has a process believe that it may use 64 cores: with two, it would start no loader processes."""

import os

os.sched_getaffinity = lambda pid: set(range(64))
