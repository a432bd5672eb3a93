from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, PerTask, Target, Vectors, require
from bench.registry import register
from methods.difference import nudges
from methods.inner import GradientDescent


@register("method", "fo-b-maml")
@dataclass(frozen=True)
class FOBMAML(Method):
    """First-order bilevel MAML (Chayti and Jaggi 2024): finite differences of nudged inner solves.

    phi(nu) minimises G + nu query_loss, from theta; at nu = 0 d phi / d nu = -(Hessian G)^-1 grad query_loss:
    meta_grad = strength (phi(0) - phi(nu)) / nu, or strength (phi(-nu) - phi(nu)) / 2 nu ("symmetric").
    No Hessian products; any inner solver but `closed_form`, which knows no nudged minimiser. Equals the
    implicit gradient up to O(nu), O(nu^2) at the exact minimisers; an unfinished inner solve gives the
    derivative of the steps that it took. A solver that stops at a tolerance may take one step more when
    nudged: an error of some tolerance / nu. ``nudge`` 0 picks nu per task from the dtype's rounding (and
    spends one query gradient). Costs three inner solves, two for "forward", the nudged ones with a query
    gradient beside every gradient.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    difference: Literal["symmetric", "forward"] = "symmetric"
    nudge: float = 0.0
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.nudge >= 0, "nudge", self.nudge, "0 (automatic) or a positive number")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        start = bilevel.start
        phi, converged, stats = self.inner(bilevel, start)
        nu = nudges(bilevel, phi, self.nudge, self.difference)

        def solve(nudge: PerTask) -> Vectors:
            nonlocal converged
            solution = self.inner(bilevel.nudged(nudge), start)
            converged = converged & solution.converged
            return solution.value

        low = solve(-nu) if self.difference == "symmetric" else phi
        high = solve(nu)
        width = 2 * nu if self.difference == "symmetric" else nu
        meta_grad = bilevel.strength * (low - high) / width[:, None]
        return Estimate(meta_grad, phi, converged, stats)

    def cost(self, n_params: int) -> Counts | None:
        one = self.inner.cost()
        if one is None:
            return None
        solves = 2 if self.difference == "symmetric" else 1
        nudged = one + Counts(outer_values=one.inner_values, outer_grads=one.inner_grads)
        return one + nudged * solves + Counts(outer_grads=0 if self.nudge else 1)
