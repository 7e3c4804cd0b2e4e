"""Randomness that is addressed, not consumed.

What is drawn for a sample depends on an address (the seed, what it is for, the index of the sample) and on nothing
else: not on the number of ranks, the batch, or what was drawn before.
"""

import hashlib
import operator
from collections.abc import Iterable, Sequence

import torch

# Values that are drawn by one kernel: 32 blocks of 256 threads, which even a small GPU runs at once. Of more, how many
# it runs at once would decide which number goes where (torch, ATen/native/cuda/DistributionTemplates.h).
PIECE = 2**13


def seed_of(*address: int | str) -> int:
    """A seed within 0 .. 2**63 - 1 for `address`: the same in every process, on every machine.

    The parts are told apart by kind and length, so ("a", "b") and ("ab",), or (1,) and ("1",), differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in address:
        text = part if isinstance(part, str) else str(operator.index(part))
        data = text.encode()
        digest.update(f"{'s' if isinstance(part, str) else 'i'}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest(), "big") >> 1


def digest_of(words: Iterable[str]) -> str:
    """Eight characters that tell one list of words from another."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]


def stream(device: torch.device | str, *address: int | str) -> torch.Generator:
    """A random generator on `device`, at the start of the stream of `address`.

    Torch's generator of a CPU takes 32 bits of the seed: of 10,000 streams two begin alike with a chance of 1 %. A CPU
    and a GPU give different numbers for the same address. GPUs give the same, as far as torch's code tells: those
    of `normal` whatever their model.
    """
    generator = torch.Generator(device)
    generator.manual_seed(seed_of(*address))
    return generator


def normal(generators: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise [N, *shape] float32, row i from generators[i], on their device.

    It is drawn in pieces so small that the numbers do not depend on how many blocks of threads a GPU runs at once.
    """
    device = generators[0].device
    noise = torch.empty(len(generators), *shape, device=device)
    for row, generator in zip(noise, generators, strict=True):
        for piece in row.view(-1).split(PIECE):
            piece.normal_(generator=generator)
    return noise


def uniform(generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Numbers [N] float32 in [0, 1), one from each generator, on their device."""
    device = generators[0].device
    numbers = torch.empty(len(generators), device=device)
    for row, generator in zip(numbers, generators, strict=True):
        row.uniform_(generator=generator)
    return numbers
