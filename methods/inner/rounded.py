from abc import ABC, abstractmethod

from bench.api import Bilevel, Counts, FirstOrderSolver, InnerSolver, Solution, Vectors, finite
from methods.backward.first_order import first_order


class Rounded(InnerSolver, ABC):
    """An inner solver that works in another precision than its cell: ``inner`` on the problem of `enter`."""

    inner: InnerSolver

    @abstractmethod
    def enter(self, bilevel: Bilevel) -> Bilevel:
        """The problem that ``inner`` is given, in the dtype of its vectors."""

    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution:
        there = self.enter(bilevel)
        value, converged, stats = self.inner(there, start.to(there.meta.dtype))
        value = value.to(start.dtype)
        return Solution(value, converged & finite(value), stats | self.seen(there))

    def seen(self, there: Bilevel) -> dict:
        """Statistics of a solve on ``there``."""
        return {}

    def unrounded(self) -> InnerSolver:
        return self.inner.unrounded()

    def cost(self) -> Counts | None:
        return self.inner.cost()


def entered(inner: InnerSolver, bilevel: Bilevel) -> tuple[FirstOrderSolver, Bilevel]:
    """The first-order solver inside ``inner`` and the problem that it is given; `Declined` for others."""
    while isinstance(inner, Rounded):
        inner, bilevel = inner.inner, inner.enter(bilevel)
    return first_order(inner), bilevel
