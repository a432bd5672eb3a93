"""The iterates of an inner solver, by a replay of its method."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.api import Bilevel, Vectors
from bench.inputs import Prepared


class Watch:
    """An engine in eager mode that counts the inner solver's gradients and keeps where some were taken."""

    def __init__(self, keep: Collection[int] = ()):
        self.seen = 0
        self.kept: dict[int, Vectors] = {}
        self._keep, self._inner = keep, True

    def kernel(
        self,
        bilevel: Bilevel,
        function: Callable,
        *static: Any,
        given: tuple[Tensor, ...] = (),
        eager: Callable | None = None,
    ) -> Callable:
        """See `bench.bilevel.Engine`."""
        if given:  # a product
            return eager or partial(function, bilevel.eager(), *static, *given)
        if function is Bilevel.inner_grad:
            return partial(self._gradient, bilevel)
        if function is Bilevel.outer_grad:
            return partial(self._outer, bilevel)
        if function is Bilevel.inner_grad_and_hvp:
            return partial(function, bilevel.eager(), *static)
        return partial(function, bilevel, *static)

    def _gradient(self, bilevel: Bilevel, phi: Vectors) -> Vectors:
        if self._inner:
            if self.seen in self._keep:
                self.kept[self.seen] = phi.detach().to("cpu", torch.float64)
            self.seen += 1
        return bilevel.eager().inner_grad(phi)

    def _outer(self, bilevel: Bilevel, phi: Vectors) -> Vectors:
        self._inner = False  # what follows is the way back
        return bilevel.eager().outer_grad(phi)


def iterates(cell: Prepared, adapted: Vectors, points: int) -> tuple[list[int], dict[int, Vectors]]:
    """Numbers of ``points`` iterates spread evenly from theta to ``adapted``; these and their neighbours.

    Iterate k is where the inner solver took its gradient number k, the last one is ``adapted``. The neighbour
    is the next iterate, or for the last the one before. Where no gradient goes through the two-level problem
    (a library's loop) the path is theta and ``adapted``. Vectors are [T, P] in float64 on the CPU. One call
    of the method to count, one to keep.
    """
    last = min(watch.seen for watch in _replay(cell, ()))
    n_steps = max(last, 1)
    chosen = torch.linspace(0, n_steps, min(points, n_steps + 1)).round().int().tolist()
    keep = {k for i in chosen for k in (i, i + 1)} | {n_steps - 1}
    watches = _replay(cell, keep) if last else []
    found = {k: torch.cat([watch.kept[k] for watch in watches]) for k in sorted(keep) if k < last}
    if not last:
        found[0] = cell.bilevel().start.to("cpu", torch.float64)
    return chosen, found | {n_steps: adapted.detach().to("cpu", torch.float64)}


def _replay(cell: Prepared, keep: Collection[int]) -> list[Watch]:
    """One call of the method, as many tasks at a time as in the cell; a watch for each batch."""
    bilevel, watches = cell.bilevel(), []
    bilevel.engine = None
    for first in range(0, len(bilevel.tasks), cell.at_once):
        part = bilevel.take(slice(first, first + cell.at_once))
        part.engine = Watch(keep)
        watches.append(part.engine)
        cell.method(part)
    return watches
