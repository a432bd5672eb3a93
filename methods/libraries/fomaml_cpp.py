from dataclasses import dataclass, field
from typing import ClassVar

from bench import native
from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import cpp_floor


@register("method", "fomaml-cpp")
@dataclass(frozen=True)
class FOMAMLCpp(Method):
    """First-order MAML as `fomaml`, in C++ written by hand for the sinusoids' MLP.

    What it serves is what `maml-cpp` does. Memory does not grow with K.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    in_torch: ClassVar[bool] = False

    @classmethod
    def lacks(cls) -> str | None:
        return native.missing()

    def __call__(self, bilevel: Bilevel) -> Estimate:
        return cpp_floor.run(bilevel, self.inner, "first_order")

    def cost(self, n_params: int) -> Counts:
        return cpp_floor.cost(self.inner, "first_order")
