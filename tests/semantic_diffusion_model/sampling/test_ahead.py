"""What is prepared ahead is what would have been made, and is made once."""

import threading

import pytest

from guided_diffusion.sampling.ahead import Ahead, with_next


def test_what_was_begun_is_taken_and_made_once():
    made = []
    with Ahead(lambda items: made.append((list(items), threading.current_thread().name)) or sum(items)) as ahead:
        ahead.begin([1, 2])
        assert ahead.get([1, 2]) == 3
        ahead.begin([4])
        assert ahead.get([4, 5]) == 9  # the batch has another size by now
        ahead.begin([])
        assert ahead.get([6]) == 6
    made = [one for one in made if one[0] != [4]]  # begun for nothing, or not even that
    assert [items for items, _ in made] == [[1, 2], [4, 5], [6]]
    assert made[0][1].startswith("ahead") and made[-1][1] == threading.main_thread().name


def test_a_mistake_found_ahead_is_told_when_it_is_asked_for():
    with Ahead(lambda items: 1 // items[0]) as ahead:
        ahead.begin([0])
        with pytest.raises(ZeroDivisionError):
            ahead.get([0])


def test_pieces_with_their_next():
    assert list(with_next(iter(["ab", "c", "d"]), "")) == [("ab", "c"), ("c", "d"), ("d", "")]
    taken = []
    pieces = with_next((taken.append(piece) or piece for piece in "ab"), "", ahead=False)
    assert next(pieces) == ("a", "") and taken == ["a"]  # "b" is left for others
    assert list(pieces) == [("b", "")]
    assert list(with_next([""], "")) == [] and list(with_next([], "")) == []
