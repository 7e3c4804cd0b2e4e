"""Streams depend on their address alone."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from guided_diffusion.process.random_streams import PIECE, normal, seed_of, stream, uniform


def test_seeds_are_the_same_everywhere():
    # Written down once: a change would silently change every run and every sampled image.
    assert seed_of(0, "noise", 7) == 8714683619037514107
    assert seed_of("patient0001_2CH_ED", 3) == 4007037650560852646


def test_seeds_do_not_depend_on_the_process():
    program = "from guided_diffusion.process.random_streams import seed_of; print(seed_of(1, 'a'))"
    out = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(out.stdout) == seed_of(1, "a")


def test_different_addresses_give_different_seeds_of_63_bits():
    addresses = [(1,), ("1",), (1, 1), (11,), ("ab",), ("a", "b"), ("", "ab"), (-1,), (0,), ("i1:1",)]
    seeds = {seed_of(*address) for address in addresses}
    assert len(seeds) == len(addresses)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(np.int64(5)) == seed_of(5)


def test_only_whole_numbers_and_text_are_addresses():
    with pytest.raises(TypeError):
        seed_of(1.5)


def test_a_row_does_not_depend_on_its_batch():
    together = normal([stream("cpu", 0, i) for i in range(5)], (3, 8, 8))
    alone = normal([stream("cpu", 0, 3)], (3, 8, 8))
    assert torch.equal(together[3], alone[0])
    assert not torch.equal(together[2], together[3])


def test_long_rows_are_the_numbers_of_their_stream_in_order():
    """Drawn in pieces, for GPUs; on a CPU pieces make no difference."""
    row = normal([stream("cpu", 0, 3)], (3, 160, 160))[0]
    assert row.numel() > 2 * PIECE
    assert torch.equal(row, torch.empty(3, 160, 160).normal_(generator=stream("cpu", 0, 3)))


def test_distributions():
    streams = [stream("cpu", 0, "test", i) for i in range(200)]
    numbers = uniform(streams)
    noise = normal(streams, (1000,))
    assert numbers.min() >= 0 and numbers.max() < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.07)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    # Neighbouring addresses are unrelated.
    assert abs(float((noise[:-1] * noise[1:]).mean())) < 0.01
