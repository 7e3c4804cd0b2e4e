"""Work that ranks fetch as they are free for it: each piece once, whoever is slow."""

import threading
import time

import pytest
import torch.distributed as dist

from guided_diffusion.runs.world import World
from guided_diffusion.sampling.batch_size import PIECES_PER_RANK, piece_size


def fetch(worlds, count, piece, seconds) -> list[list[int]]:
    """What each rank gets of range(count) if it takes seconds[rank] for a piece."""
    got: list[list[int]] = [[] for _ in worlds]

    def work(rank: int) -> None:
        for items in worlds[rank].hand_out(range(count), piece):
            got[rank] += items
            time.sleep(seconds[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(worlds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@pytest.mark.parametrize(("count", "piece"), [(0, 3), (1, 3), (22, 3), (24, 3), (23, 1)])
def test_each_item_is_handed_out_once_over_all_ranks(count, piece):
    store = dist.HashStore()
    worlds = [World(rank, 3, store=store) for rank in range(3)]
    for _ in range(2):  # a second job starts from its own beginning
        got = fetch(worlds, count, piece, [0, 0, 0])
        assert sorted(item for items in got for item in items) == list(range(count))


def test_a_slow_rank_gets_less():
    store = dist.HashStore()
    got = fetch([World(rank, 2, store=store) for rank in range(2)], 40, 1, [0.5, 0.01])
    assert len(got[0]) < 10 < len(got[1]) and sorted(got[0] + got[1]) == list(range(40))


def test_alone_all_comes_at_once():
    assert [list(items) for items in World().hand_out(range(5), 2)] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("count", [1, 7, 22, 2250])
def test_pieces_are_no_larger_than_a_batch_and_keep_all_ranks_busy(count, ranks):
    piece = piece_size(count, ranks, most=64)
    assert 1 <= piece <= 64
    assert -(-count // piece) >= min(count, PIECES_PER_RANK * ranks) // 2
