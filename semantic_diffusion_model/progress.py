"""How far a command is: a bar on a terminal, a plain line now and then in a log file; and which command comes next.

This small file stands in each of the three script folders, which do not import one another.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 30.0
ROOT = Path(__file__).resolve().parents[1]


class Progress:
    """`start` of `total` items are done (None: nobody knows how many there will be). Use as a context manager.

    On a terminal a bar with rate and time left; otherwise a line every 30 s, and one when all is done. `keep` False
    leaves nothing behind.
    """

    def __init__(self, title: str, total: int | None, unit: str = "it", start: int = 0, keep: bool = True):
        self.title, self.total, self.unit, self.keep = title, total, unit, keep
        self.done = self._start = start
        self._began = self._told = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=start, desc=title, unit=unit, leave=keep, dynamic_ncols=True, mininterval=0.5
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self) -> None:
        self.reach(self.done + 1)

    def reach(self, done: int) -> None:
        """`done` items are done by now."""
        before, self.done = self.done, done
        if self._bar is not None:
            self._bar.update(done - before)
            if done == self.total:
                self.close()
        elif done == self.total and done != before:
            if self.keep:
                taken = tqdm.format_interval(time.monotonic() - self._began)
                print(f"{self._count()} in {taken}", file=sys.stderr, flush=True)
        elif done != self.total and time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            print(f"{self._count()}, {self._speed()}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line on stdout, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text)
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing more will come."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def _count(self) -> str:
        return f"{self.title}: {self.done}" + ("" if self.total is None else f" of {self.total}")

    def _speed(self) -> str:
        """The rate since the beginning, and at that rate the time left."""
        done, seconds = self.done - self._start, time.monotonic() - self._began
        if not done:
            return f"none yet in {tqdm.format_interval(seconds)}"
        rate = f"{done / seconds:.1f} {self.unit}/s" if done > seconds else f"{seconds / done:.1f} s/{self.unit}"
        if self.total is None:
            return rate
        return f"{rate}, {tqdm.format_interval((self.total - self.done) * seconds / done)} left"


def track(items: Iterable[Item], title: str, total: int, unit: str = "it", keep: bool = True) -> Iterator[Item]:
    """Yield each of `items`, counting those that are done with."""
    with Progress(title, total, unit, keep=keep) as progress:
        for item in items:
            yield item
            progress.advance()


def next_step(script: str, *args: object, launcher: str = "python") -> str:
    """The line that names the command which usually follows: `script` as <folder>/<name>.py, and its arguments."""
    return f"next: {launcher} {shlex.join([os.path.relpath(ROOT / script), *map(str, args)])}"
