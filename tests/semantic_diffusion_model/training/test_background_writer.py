"""Checkpoints are written beside the training: one after the other, from copies, and no error is lost."""

import threading
import time

import pytest
import torch

from guided_diffusion.training.background_writer import BackgroundWriter, snapshot


def test_jobs_run_one_after_the_other_beside_the_caller():
    go, done = threading.Event(), []
    with BackgroundWriter() as writer:
        writer.submit(lambda: go.wait(10) and done.append("first"))
        assert done == []  # the caller was not held up
        go.set()
        writer.submit(done.append, "second")
        assert done[0] == "first"
    assert done == ["first", "second"]


def fail():
    raise OSError("no space left")


def test_an_error_is_raised_at_the_next_job_or_at_the_end():
    with BackgroundWriter() as writer:
        writer.submit(fail)
        with pytest.raises(OSError, match="no space left"):
            writer.submit(print)
    with pytest.raises(OSError, match="no space left"), BackgroundWriter() as writer:
        writer.submit(fail)


def test_a_check_raises_an_error_and_waits_for_nothing():
    go = threading.Event()
    with BackgroundWriter() as writer:
        writer.submit(go.wait, 10)
        writer.check()
        go.set()
        writer.submit(fail)
        with pytest.raises(OSError, match="no space left"):
            for _ in range(1000):
                writer.check()
                time.sleep(0.01)


def test_an_error_of_the_block_comes_before_one_of_the_writer():
    with pytest.raises(ValueError, match="astray"), BackgroundWriter() as writer:
        writer.submit(fail)
        raise ValueError("astray")


def test_a_snapshot_does_not_change_with_what_it_was_taken_of():
    weight = torch.nn.Parameter(torch.zeros(3))
    tree = {"weights": {"a": weight}, "list": [torch.ones(2), 5], "tuple": (1.5, "text")}
    copy = snapshot(tree)
    weight.data += 1
    tree["list"][0] += 1
    assert copy["weights"]["a"].tolist() == [0, 0, 0]
    assert copy["list"][0].tolist() == [1, 1]
    assert copy["list"][1] == 5
    assert copy["tuple"] == (1.5, "text")
    assert not copy["weights"]["a"].requires_grad
