"""Work on the host for the next batch, done in a thread while the device is busy with this one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Piece = TypeVar("Piece")


class Ahead(Generic[Result]):
    """function(items), begun before it is asked for. A context manager: the thread ends with the block."""

    def __init__(self, function: Callable[[Sequence[Any]], Result]):
        self.function = function
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._items: list[Any] = []
        self._result: Future | None = None

    def begin(self, items: Sequence[Any]) -> None:
        """Begin with `items`; what was begun before and not asked for is dropped."""
        self._items = list(items)
        self._result = self._thread.submit(self.function, self._items) if self._items else None

    def get(self, items: Sequence[Any]) -> Result:
        """function(items): what was begun, if it was for the same items."""
        if self._result is not None and list(items) == self._items:
            result, self._result = self._result, None
            return result.result()
        return self.function(items)

    def __enter__(self) -> "Ahead[Result]":
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.shutdown(cancel_futures=True)


def with_next(pieces: Iterable[Piece], nothing: Piece, ahead: bool = True) -> Iterator[tuple[Piece, Piece]]:
    """Each piece with the one after it; `nothing` after the last. Without `ahead` a piece is taken when it is needed,
    and `nothing` stands after each."""
    if not ahead:
        yield from ((piece, nothing) for piece in pieces)
        return
    pieces = iter(pieces)
    present = next(pieces, nothing)
    while present:
        following = next(pieces, nothing)
        yield present, following
        present = following
