from dataclasses import dataclass, field
from typing import ClassVar

from bench import native
from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, Target, require
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import cpp_floor


@register("method", "imaml-cpp")
@dataclass(frozen=True)
class IMAMLCpp(Method):
    """iMAML in C++ written by hand for the sinusoids' MLP: ``iterations`` of conjugate gradient from zero.

    meta_grad = lambda x, (H + lambda I) x = query gradient at phi, where the network is linearised once for
    all products. Exact as `imaml` is; a task that met a curvature p'Ap <= 0 counts as not converged. What it
    serves is what `maml-cpp` does. Memory does not grow with K.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    iterations: int = 5
    in_torch: ClassVar[bool] = False
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")

    @classmethod
    def lacks(cls) -> str | None:
        return native.missing()

    def __call__(self, bilevel: Bilevel) -> Estimate:
        return cpp_floor.run(bilevel, self.inner, "implicit", self.iterations)

    def cost(self, n_params: int) -> Counts:
        return cpp_floor.cost(self.inner, "implicit", self.iterations)
