"""Commands as real processes, each with a mark in its environment by which whatever it leaves behind is found."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FOLDERS = {name: ROOT / name for name in ("data_preparation", "semantic_diffusion_model", "echo_segmentation")}
MANY_CORES = {"PYTHONPATH": str(Path(__file__).parent / "many_cores")}
MARK = "FAULTS_OF_RUN"
# The smallest network with every kind of layer.
NETWORK = {"img_size": 16, "num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "num_head_channels": 32}
NETWORK |= {"attention_resolutions": "8", "device": "cpu", "diffusion_steps": 20}
DEEP: list = []  # nested deeper than anything that is meant
for _ in range(150):
    DEEP = [DEEP]


def words_of(**settings) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


class Launched:
    """A command under way, with all that it prints in a file."""

    def __init__(self, words: list, log: Path, folder: Path, environment: dict[str, str]):
        self.log = log
        self.mark = f"{MARK}={uuid.uuid4()}"
        variables = (
            os.environ
            | dict([self.mark.split("=")])
            | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            | environment
        )
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=variables,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, condition: Callable[[], object], seconds: float = 180) -> None:
        """Wait for `condition`; the test fails if the command ends before, or the time does."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None and not condition():
                pytest.fail(f"ended with {self.process.returncode}:\n{self.said}")
            if time.monotonic() > end:
                pytest.fail(f"nothing after {seconds} s:\n{self.said}")
            time.sleep(0.02)

    def until_said(self, words: str, seconds: float = 180) -> None:
        self.until(lambda: words in self.said, seconds)

    def finish(self, seconds: float = 180) -> int:
        """The exit code; the test fails if the command takes longer."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s:\n{self.said}")

    def send(self, number: int, to_all: bool = False) -> None:
        """Send a signal to the process that was started (a launcher, say), or to each that came of it."""
        for pid in self.members() if to_all else [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def members(self) -> list[int]:
        """The living processes that came of it, whatever became of their parents."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in path.read_bytes().split(b"\0"):  # empty of the dead
                    found.append(int(path.parent.name))
        return found

    def until_gone(self, seconds: float) -> None:
        """Wait until no process that came of it is left; the test fails if the time ends before."""
        end = time.monotonic() + seconds
        while self.members():
            if time.monotonic() > end:
                left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.members()]
                pytest.fail(f"left after {seconds} s: {left}\n{self.said}")
            time.sleep(0.05)

    def end(self) -> None:
        self.send(signal.SIGKILL, to_all=True)
        self.process.wait()
