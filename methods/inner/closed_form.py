from dataclasses import dataclass

from bench.api import Bilevel, Counts, Declined, InnerSolver, Solution, Vectors, finite
from bench.registry import name_of, register


@register("inner", "closed_form")
@dataclass(frozen=True)
class ClosedForm(InnerSolver):
    """The exact minimiser of G, from the problem's own formula. Declines where the problem has none."""

    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution:
        phi = bilevel.inner_solution()
        if phi is None:
            raise Declined(f"problem '{name_of(bilevel.problem)}' has no closed-form inner solution")
        return Solution(phi, finite(phi), {})

    def cost(self) -> Counts:
        return Counts()
