from dataclasses import dataclass, field

from bench.api import Bilevel, InnerSolver, Precision, cast, dtype_of
from bench.registry import register
from methods.inner.gradient_descent import GradientDescent
from methods.inner.rounded import Rounded


@register("inner", "in_dtype")
@dataclass(frozen=True)
class InDtype(Rounded):
    """Another inner solver wholly in ``dtype``: data, iterates, gradients; its result is cast back.

    Equal to ``inner`` bit for bit where ``dtype`` is the cell's. Exact MAML by the adjoint sweep goes forward
    in it and comes back in the cell's dtype. Costs what ``inner`` does.
    """

    dtype: Precision = "float64"
    inner: InnerSolver = field(default_factory=GradientDescent)

    def enter(self, bilevel: Bilevel) -> Bilevel:
        return cast(bilevel, dtype_of(self.dtype))
