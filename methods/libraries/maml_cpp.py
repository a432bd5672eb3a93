from dataclasses import dataclass, field
from typing import ClassVar

from bench import native
from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, Target
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import cpp_floor


@register("method", "maml-cpp")
@dataclass(frozen=True)
class MAMLCpp(Method):
    """Exact MAML on the sinusoids' MLP, in C++ written by hand for that one network: the floor of the time.

    The adjoint sweep of `maml`: v <- v - alpha (H + lambda I) v from the last stored iterate to the first,
    theta_bar = v_0 + lambda alpha sum of the v, with H v by Pearlmutter's R-operator (1994). Relu or tanh,
    gradient descent, one thread; all else is declined. Compiled at first use. Memory K x P of one task.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    exact: ClassVar[Target | None] = "maml"
    in_torch: ClassVar[bool] = False

    @classmethod
    def lacks(cls) -> str | None:
        return native.missing()

    def __call__(self, bilevel: Bilevel) -> Estimate:
        return cpp_floor.run(bilevel, self.inner, "adjoint")

    def cost(self, n_params: int) -> Counts:
        return cpp_floor.cost(self.inner, "adjoint")
