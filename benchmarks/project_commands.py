"""Commands of the project, as the benchmarks run them."""

import os
import subprocess
import sys
import time
from pathlib import Path

from timing import ROOT

sys.path.append(str(ROOT / "data_preparation"))
from command import UserError  # noqa: E402 - the same file stands in each folder

QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "NO_ALBUMENTATIONS_UPDATE": "1"}


def run(*words: object, quiet: bool = True, **environment: str) -> float:
    """A command, to its end; its seconds. Raises UserError if it fails. quiet: only errors and progress are shown."""
    command = [str(word) for word in words]
    command = [sys.executable, *command] if command[0].endswith(".py") else command
    print("$", *command, flush=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = os.environ | QUIET | {"PATH": path} | environment
    start = time.perf_counter()
    if subprocess.run(command, env=settings, stdout=subprocess.DEVNULL if quiet else None).returncode:
        raise UserError(f"this command failed: {' '.join(command)}")
    return time.perf_counter() - start


def output_of(*words: object) -> str:
    """What a script of the project writes to its standard output. Raises UserError, with its last line, if it fails."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"this command failed: {' '.join(command)}", done.stderr.splitlines()[-1:])
    return done.stdout
