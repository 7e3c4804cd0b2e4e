"""A job that is asked to stop, as clusters do: with loader processes, under any launcher, one process or all."""

import re
import signal

import pytest
import torch
from launching import MANY_CORES, NETWORK, words_of

TRAIN = "semantic_diffusion_model/image_train.py"
LAUNCHERS = {1: [()], 2: [("mpiexec", "-np", "2")], 4: [("mpiexec", "-np", "4")]}
for ranks in (2, 4):
    LAUNCHERS[ranks].append(("torchrun", "--standalone", "--nproc-per-node", str(ranks)))
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
FAST = [
    ((), signal.SIGUSR1, True),
    (("mpiexec", "-np", "2"), signal.SIGTERM, True),
    (("torchrun", "--standalone", "--nproc-per-node", "2"), signal.SIGUSR1, False),
]
CTRL_C = [(launcher, signal.SIGINT, True) for launcher in ((), ("mpiexec", "-np", "2"))]  # to all, as a terminal does
FAST += CTRL_C
ALL = CTRL_C + [
    (launcher, number, group)
    for kind in LAUNCHERS.values()
    for launcher in kind
    for number in SIGNALS
    for group in (False, True)
]


def name_of(case) -> str:
    launcher, number, group = case
    return "-".join([*(launcher[:1] or ["alone"]), *launcher[-1:], number.name, "all" if group else "one"])


CASES = [pytest.param(*case, id=name_of(case), marks=[] if case in FAST else pytest.mark.slow) for case in ALL]


@pytest.mark.launch
@pytest.mark.parametrize(("launcher", "number", "group"), CASES)
def test_a_signal_saves_with_loaders(launcher, number, group, start, datadir, tmp_path, survived):
    survived("SIGTERM, SIGUSR1 or Ctrl-C, with loader processes", "saved at a step, all processes gone")
    out = tmp_path / "out"
    flags = words_of(**NETWORK, datadir=datadir, savedir=out, num_workers=2, preview_steps=0, log_interval=2)
    flags += words_of(lr_anneal_steps=0, save_interval=10**6)
    run = start(TRAIN, flags, launcher, **MANY_CORES)
    run.until_said("step 4:")
    assert "2 loader processes per rank" in run.said
    ranks = int(launcher[-1]) if launcher else 1
    assert len(run.members()) >= 3 * ranks  # loaders are there
    run.send(number, to_all=group)
    code = run.finish(90)
    run.until_gone(30)
    saved = re.search(r"asked to stop: saved at step (\d+)", run.said)
    assert saved, run.said
    state = torch.load(out / f"opt{int(saved[1]):06d}.pt", weights_only=True)
    assert state["step"] == int(saved[1]) and set(state["files"]) <= {path.name for path in out.iterdir()}
    assert "DataLoader worker" not in run.said, run.said
    if launcher[:1] != ("torchrun",):  # which reports the signal as its own end
        by_hand = (130, 0) if launcher else (130,)  # MPICH's mpiexec ends with 0 when it was told itself
        assert code in (by_hand if number == signal.SIGINT else (0,)), run.said
