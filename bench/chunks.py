"""Deals the cells of a sweep to its workers."""

from collections import deque
from collections.abc import Iterable
from itertools import groupby

from bench.cells import Cell, canonical


class Chunks:
    """Deals cells to workers, so that what one worker remembers serves its next cell.

    Cells of one problem and seed share draws and references, so a worker is dealt all of them as one chunk.
    When no chunk is left, it takes the second half of the longest that another still has before it: all are
    busy until the end, however unequal the chunks are.
    """

    def __init__(self, cells: Iterable[Cell]):
        self._chunks = deque(deque(group) for _, group in groupby(cells, _shared))

    def deal(self, others: Iterable[deque[Cell]]) -> deque[Cell]:
        """A chunk for a worker that has none; ``others`` are those of the other workers. Empty at the end."""
        if self._chunks:
            return self._chunks.popleft()
        longest = max(others, key=len, default=deque())
        half = [longest.pop() for _ in range((len(longest) + 1) // 2)]
        return deque(reversed(half))

    def take_back(self, chunk: deque[Cell]) -> None:
        """What a worker that is no more has left; it is dealt next."""
        if chunk:
            self._chunks.appendleft(chunk)


def _shared(cell: Cell) -> str:
    return canonical([cell.description["problem"], cell.description["seed"]])
