"""How many cores this process may use: those it may run on, and what the limits of a container leave of them.

This small file stands in each of the three script folders, which do not import one another.
"""

import contextlib
import math
import os
from pathlib import Path


def usable_cores() -> int:
    """At least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, allowed_cores())))


def allowed_cores(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """The processor time that control groups allow, in cores; infinite without a limit (docker run --cpus, Kubernetes).

    `groups`: the groups of this process; `root`: where their files are mounted. A limit of any group above holds as
    well. Both versions are understood.
    """
    allowed = math.inf
    with contextlib.suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = Path(name.lstrip("/"))
            base = root / "cpu" if controllers else root
            for folder in (base / group, *(base / parent for parent in group.parents)):
                allowed = min(allowed, _limit_of(folder))
    return allowed


def _limit_of(folder: Path) -> float:
    """That of one group, in cores."""
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = map(int, (folder / "cpu.max").read_text().split())
        return quota / period
    with contextlib.suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else math.inf
    return math.inf
