"""What rounding does on the way, per task: a replay of a method whose oracles are compared with float64.

The replay is an engine of the two-level problem (`bench.bilevel.Engine`), so that the plain path knows
nothing of it; it computes what the cell does, bit for bit in eager mode, and all of it in float64 too.

    gradient_overflow    share of the inner gradients' entries that are not finite and are so in float64
    gradient_underflow   share of them that are 0 and are not so in float64 (or cancelled to the last bit)
    product_overflow, product_underflow    the same of curvature-vector products
    stagnation           share of coordinates, over all inner steps, with a gradient that is not 0 and whose
                         step left them as they were: it is less than half an ulp
    lost_curvature       products with v'Av <= 0 in the dtype and > 0 in float64: where CG loses its way
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.api import Bilevel, PerTask, Vectors, cast
from bench.inputs import Prepared

UNSEEN = "the method's gradients and products do not go through the two-level problem's own"


def observe(cell: Prepared) -> dict[str, Any]:
    """The counts above by name, a list over tasks each; ``{"missing": reason}`` where nothing is seen."""
    bilevel = cell.bilevel()
    bilevel.engine = None
    n_tasks, rows = len(bilevel.tasks), []
    for first in range(0, n_tasks, cell.at_once):
        part = bilevel.take(slice(first, first + cell.at_once))
        part.engine = watch = Watch(len(part.tasks))
        watch.end(cell.method(part).adapted)
        rows.append((watch.shares(), torch.full((len(part.tasks),), torch.nan)))
    names = dict.fromkeys(name for row, _ in rows for name in row)
    found = {name: torch.cat([row.get(name, none) for row, none in rows]).tolist() for name in names}
    return found or {"missing": UNSEEN}


class Watch:
    """An engine that runs everything in eager mode, and each gradient and product in float64 too."""

    def __init__(self, n_tasks: int):
        self._n_tasks = n_tasks
        self._sums: dict[str, Tensor] = {}
        self._before: tuple[Vectors, Vectors] | None = None
        self._inner = True  # until the first call that is not the inner solver's
        self._product: tuple[Vectors, Callable] | None = None

    def kernel(
        self,
        bilevel: Bilevel,
        function: Callable,
        *static: Any,
        given: tuple[Tensor, ...] = (),
        eager: Callable | None = None,
    ) -> Callable:
        """See `bench.bilevel.Engine`."""
        if given:  # a function of the product at a point
            (phi,), of = given, function
            if self._product is None or self._product[0] is not phi:
                self._product = phi, self._watched(bilevel, phi)
            return partial(of.function, self._product[1], *of.static)  # type: ignore[attr-defined]
        if function is Bilevel.inner_grad:
            return partial(self._gradient, bilevel)
        if function is Bilevel.outer_grad:
            return partial(self._outer, bilevel)
        if function is Bilevel.inner_grad_and_hvp:
            return partial(self._both, bilevel)
        return partial(function, bilevel, *static)

    def end(self, adapted: Vectors) -> None:
        """The point that the inner solver ended at, where no outer gradient has shown it."""
        self._step_to(adapted)

    def shares(self) -> dict[str, PerTask]:
        """The counts of every task; those of what never happened are left out."""
        found = {}
        for what in ("gradient", "product"):
            if (n := self._sums.get(what)) is not None:
                ends = ("overflow", "underflow")
                found |= {f"{what}_{end}": self._sums[f"{what}_{end}"] / n for end in ends}
        if (n := self._sums.get("moving")) is not None:
            found["stagnation"] = self._sums["stuck"] / n.clamp_min(1)
        if "lost_curvature" in self._sums:
            found["lost_curvature"] = self._sums["lost_curvature"]
        return found

    def _gradient(self, bilevel: Bilevel, phi: Vectors) -> Vectors:
        grad = bilevel.eager().inner_grad(phi)
        exact = _exact(bilevel).inner_grad(phi.detach().double())
        self._compare("gradient", grad.detach(), exact)
        self._step_to(phi.detach())
        if self._inner:
            self._before = phi.detach(), grad.detach()
        return grad

    def _outer(self, bilevel: Bilevel, phi: Vectors) -> Vectors:
        self._step_to(phi.detach())
        self._inner = False
        return bilevel.eager().outer_grad(phi)

    def _both(self, bilevel: Bilevel, phi: Vectors, v: Vectors) -> tuple[Vectors, Vectors]:
        grad, product = bilevel.eager().inner_grad_and_hvp(phi, v)
        exact = _exact(bilevel).inner_hvp(phi.double())
        self._compare("gradient", grad, exact.gradient)
        self._at(v, product, exact(v.double()))
        return grad, product

    def _watched(self, bilevel: Bilevel, phi: Vectors) -> Callable[[Vectors], Vectors]:
        product, exact = bilevel.eager().linearise(phi), _exact(bilevel).inner_hvp(phi.double())

        def watched(v: Vectors) -> Vectors:
            found = product(v)
            self._at(v, found, exact(v.double()))
            return found

        return watched

    def _at(self, v: Vectors, product: Vectors, exact: Vectors) -> None:
        self._compare("product", product, exact)
        lost = ((v * product).sum(dim=1) <= 0) & ((v.double() * exact).sum(dim=1) > 0)
        self._add("lost_curvature", lost[:, None])

    def _compare(self, what: str, found: Vectors, exact: Vectors) -> None:
        fine = torch.isfinite(exact)
        self._add(what, torch.ones_like(fine))
        self._add(f"{what}_overflow", ~torch.isfinite(found) & fine)
        self._add(f"{what}_underflow", (found == 0) & (exact != 0) & fine)

    def _step_to(self, phi: Vectors) -> None:
        if self._before is None:
            return
        (before, grad), self._before = self._before, None
        if phi.shape == before.shape:
            moving = grad != 0
            self._add("moving", moving)
            self._add("stuck", moving & (phi.to(before.dtype) == before))

    def _add(self, name: str, rows: Tensor) -> None:
        """``rows`` are [T, ...] or several batches of T below each other."""
        counts = rows.sum(dim=1, dtype=torch.float64).reshape(-1, self._n_tasks).sum(dim=0).cpu()
        self._sums[name] = self._sums.get(name, 0) + counts


def _exact(bilevel: Bilevel) -> Bilevel:
    """In float64, with counters of its own."""
    alone = bilevel.take(slice(None))
    alone.engine, alone._nudge = None, bilevel._nudge
    return cast(alone, torch.float64)
