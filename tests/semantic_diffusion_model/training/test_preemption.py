"""Asked to stop, with and without signs of life: when a process ends, and how."""

import signal
import sys
import time

import pytest

STUCK = """
import signal, time
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.runs.world import World

with StopRequest(World(), grace=1.0):
    print("ready", flush=True)
    time.sleep(60)
"""


ALIVE = """
import os, signal, time
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.runs.world import World

with StopRequest(World(), grace=1.5) as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(8):  # parts of a step that takes three seconds
        time.sleep(0.4)
        stop.alive()
    print("stopped", stop.agreed())
    time.sleep(3)  # what follows is the loop's to see to
"""


def test_a_long_step_with_signs_of_life_comes_to_its_end(launch):
    process = launch([], [sys.executable, "-c", ALIVE])
    assert process.finish(60) == "stopped True\n" and process.returncode == 0


INTERRUPTED = """
import os, signal, sys, time
from guided_diffusion.training.preemption import StopRequest
from guided_diffusion.runs.world import World

signal.signal(signal.SIGINT, getattr(signal, sys.argv[2]))
with StopRequest(World(size=int(sys.argv[1])), grace=60) as stop:
    try:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 20
        while sys.argv[2] != "SIG_IGN" and not stop._asked and time.monotonic() < deadline:
            time.sleep(0.05)
        print("asked", stop._asked, stop.exit_code())
        os.kill(os.getpid(), signal.SIGINT)  # by the terminal, and then by the launcher
        time.sleep(0.1)
        print("once more")
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    except KeyboardInterrupt:
        print("at once")
"""


@pytest.mark.parametrize(
    ("ranks", "handler", "expected"),
    [
        (1, "default_int_handler", ["asked True 130", "at once"]),
        (2, "default_int_handler", ["asked True 130", "once more", "at once"]),
        (1, "SIG_IGN", ["asked False 0", "once more"]),  # as in the background of a script
    ],
)
def test_ctrl_c_saves_and_once_more_ends_at_once(launch, ranks, handler, expected):
    process = launch([], [sys.executable, "-c", INTERRUPTED, str(ranks), handler])
    told = ["", "interrupted: saving at the end of this step; Ctrl-C again ends at once"]
    said = process.finish(60).splitlines()
    assert said == [*(told if "asked True 130" in expected else []), *expected] and process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_where_no_step_ends_the_process_exits_in_time(launch, number):
    process = launch([], [sys.executable, "-c", STUCK])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    started = time.monotonic()
    assert "no sign of life for 1 s: exiting without a checkpoint" in process.finish(20)
    assert process.returncode == 1
    assert 0.9 < time.monotonic() - started < 5


@pytest.mark.launch
def test_a_training_goes_on_when_nobody_reads_what_it_prints(tmp_path, tiny_changes, pictures, as_flags, launch):
    """As where `tee` was killed."""
    settings = tiny_changes | {"savedir": tmp_path, "datadir": pictures, "lr_anneal_steps": 3, "log_interval": 1}
    process = launch([], [sys.executable, "image_train.py", *as_flags(**settings)])
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=150) == 0
    assert (tmp_path / "model000003.pt").exists() and "next: " in (tmp_path / "log.txt").read_text()
