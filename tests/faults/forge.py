"""A process that has imported all commands, and forks one for each line of JSON it reads: a start takes milliseconds.

What it starts are real processes, each the leader of its session, which run a command to its end, or to their own.
Run as a script it serves; `Forge` is how a test asks for processes.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("data_preparation", "semantic_diffusion_model", "echo_segmentation")


class Forge:
    """Starts commands: forge.start("image_train", flags, log) -> Forged."""

    def __init__(self):
        variables = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        words = [sys.executable, __file__]
        self.one_at_a_time = threading.Lock()
        self.server = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables
        )
        assert (line := self.server.stdout.readline()) == "ready\n", line + self.server.stdout.read()

    def ask(self, **question):
        with self.one_at_a_time:
            self.server.stdin.write(json.dumps(question) + "\n")
            self.server.stdin.flush()
            return json.loads(self.server.stdout.readline())

    def start(self, command: str, flags: list, log: Path) -> "Forged":
        return Forged(self, self.ask(start=command, flags=[str(flag) for flag in flags], log=str(log)), log)

    def run(self, command: str, flags: list, log: Path) -> int:
        """The exit code of a command that is left to its end."""
        return self.start(command, flags, log).wait()

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()


class Forged:
    """A command under way."""

    def __init__(self, forge: Forge, pid: int, log: Path):
        self.forge, self.pid, self.log = forge, pid, log

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), None while it runs."""
        return self.forge.ask(poll=self.pid)

    def wait(self, seconds: float = 240) -> int:
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < end, f"still running after {seconds} s:\n{self.said}"
            time.sleep(0.02)
        return code

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)


def _commands() -> dict:
    """Name -> function(flags) -> exit code."""
    sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
    import torch

    torch.set_num_threads(1)
    import extract_camus_data
    import image_sample
    import image_train
    import runner
    import training  # noqa: F401  (of the segmentation, which its command imports late)
    from command import run_command
    from config import Settings
    from guided_diffusion.runs import launch
    from guided_diffusion.sampling import job  # noqa: F401
    from guided_diffusion.training import loop  # noqa: F401
    from help_groups import SAMPLING_GROUPS, TRAINING_GROUPS
    from settings import TrainSettings

    return {
        "image_train": lambda flags: launch.run(image_train.main, Settings, "", TRAINING_GROUPS, flags),
        "image_sample": lambda flags: launch.run(image_sample.main, Settings, "", SAMPLING_GROUPS, flags),
        "runner": lambda flags: run_command(runner.main, TrainSettings, flags),
        "extract_camus_data": lambda flags: run_command(
            extract_camus_data.extract_camus_data, extract_camus_data.ExtractSettings, flags
        ),
    }


def _child(function, flags: list[str], log: str) -> None:
    code = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = function(flags)
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _serve() -> None:
    commands = _commands()
    answers = os.fdopen(os.dup(1), "w")
    codes: dict[int, int] = {}
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer = os.fork()
            if not answer:
                _child(commands[question["start"]], question["flags"], question["log"])
        else:
            pid = question["poll"]
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
            answer = codes.get(pid)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
