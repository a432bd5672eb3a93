from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, Target, finite, require
from bench.registry import register
from methods.backward import first_order, sweep
from methods.inner import GradientDescent


@register("method", "truncated-maml")
@dataclass(frozen=True)
class TruncatedMAML(Method):
    """Truncated back-propagation (Shaban et al. 2019): only the ``last`` k of K steps are differentiated.

    phi_{K-k} is taken as a constant, so theta is seen through the proximal term of the last k steps alone:
    meta_grad = sum_{j >= K-k} B_j' A_{j+1}' .. A_{K-1}' grad query_loss, with A_j and B_j the derivatives of
    step j in phi and in theta. Tends to the implicit gradient, linearly in k, at the inner minimiser; exact
    MAML for k >= K. ``unroll_from`` = K - k says instead at which step the unrolling begins: a late
    start, for the "curse of unrolling", Scieur et al. 2022. One of the two at most; with none, k = 5.
    Costs K + k gradients and k products; memory k vectors.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    last: int | None = None
    unroll_from: int | None = None
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        one = self.last is None or self.unroll_from is None
        require(one, "unroll_from", self.unroll_from, "left out where `last` is given")
        for name, value in (("last", self.last), ("unroll_from", self.unroll_from)):
            require(value is None or value >= 0, name, value, "0 or more steps")

    def _first(self, steps: int) -> int:
        if self.unroll_from is not None:
            return min(steps, self.unroll_from)
        return max(0, steps - (5 if self.last is None else self.last))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        solver = first_order(self.inner)
        meta_grad, adapted = sweep(bilevel, solver, self._first(solver.steps))
        return Estimate(meta_grad, adapted, finite(adapted), {})

    def cost(self, n_params: int) -> Counts:
        solver = first_order(self.inner)
        unrolled = solver.steps - self._first(solver.steps)
        return solver.cost() + Counts(inner_grads=unrolled, inner_hvps=unrolled, outer_grads=1)
