from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bench.api import Bilevel, Estimate, InnerSolver, Method, Target, require
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries.per_task import around, each_task, no_functorch_warning


@register("method", "imaml-hypergrad")
@dataclass(frozen=True)
class IMAMLHypergrad(Method):
    """iMAML by the library `hypergrad` 0.0.1 (Hataya and Yamada 2023), task after task.

    ``linear`` "cg" has a `known_fault` and is run as it is; "neumann" is the series of `neumann` with step
    ``step``. Around our inner solver.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    linear: Literal["cg", "neumann"] = "cg"
    iterations: int = 5
    step: float = 1.0
    needs: ClassVar[tuple[str, ...]] = ("hypergrad>=0.0.1",)
    install: ClassVar[str | None] = "pip install --no-deps 'hypergrad>=0.0.1'"  # torchvision is for examples
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.step > 0, "step", self.step, "a positive number")

    def known_fault(self) -> str | None:
        if self.linear != "cg":
            return None
        return "hypergrad 0.0.1: CG's new direction is built from the old residual"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        from hypergrad.approx_hypergrad import conjugate_gradient, neumann

        # Its series has one term more than iterations.
        solve, number = {
            "cg": (conjugate_gradient, self.iterations),
            "neumann": (neumann, self.iterations - 1),
        }[self.linear]
        rows, solution = [], self.inner(bilevel, bilevel.start)
        for phi, task in zip(solution.value.detach(), each_task(bilevel), strict=True):
            with no_functorch_warning():
                rows += solve(
                    lambda inner, outer, task=task: task.inner(inner[0], outer[0]),
                    lambda inner, outer, task=task: task.query(inner[0]) + 0 * outer[0].sum(),
                    (phi,),
                    (task.start,),
                    number,
                    self.step,
                )
        return around(bilevel, rows, solution, inner_hvps=self.iterations, outer_grads=1)
