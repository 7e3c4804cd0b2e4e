"""What the benchmarks share: jobs timed in turn, and a log with the circumstances."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


class Log:
    """Lines that are shown at once, and written to `path` when all is done; the first ones tell the circumstances."""

    def __init__(self, path: Path, *facts: str, packages: tuple[str, ...] = ("torch",)):
        self.path = path
        self.lines: list[str] = []
        load = f"load of the CPU at the start: {os.getloadavg()[0]:.1f} processes (last minute)"
        machine = f"{processor()}, {os.cpu_count()} cores"
        versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
        for fact in (f"date {datetime.date.today()}", machine, *facts, versions, load, ""):
            self.say(fact)

    def say(self, text: str = "") -> None:
        self.lines.append(text)
        print(text, flush=True)

    def write(self) -> None:
        self.say(f"load of the CPU at the end: {os.getloadavg()[0]:.1f}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join([*self.lines, ""]))


def processor() -> str:
    """The processor's own name, as far as the system tells it."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def interleaved(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round, one after the other, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def describe(seconds: list[float]) -> str:
    return f"min {min(seconds):8.3f} s   median {statistics.median(seconds):8.3f} s"


def ratio_of(slow: list[float], fast: list[float]) -> float:
    """Median over rounds: the two of a round ran one after the other, under the same load."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
