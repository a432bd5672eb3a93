from dataclasses import dataclass, field

from bench.api import CastProduct, LinearSolver, Matvec, Noise, Precision, Solution, Vectors, dtype_of, finite
from bench.registry import register
from methods.linear.conjugate_gradient import ConjugateGradient


@register("linear", "in_dtype")
@dataclass(frozen=True)
class InDtype(LinearSolver):
    """Another linear solver in ``dtype``: the right-hand side is cast in, the solution is cast back.

    Products stay in their own precision: v is cast for them, to the cell's dtype or to that of a curvature
    with one of its own. Equal to ``linear`` bit for bit where ``dtype`` is the cell's. Costs the same.
    """

    dtype: Precision = "float64"
    linear: LinearSolver = field(default_factory=ConjugateGradient)

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        dtype = dtype_of(self.dtype)
        if dtype == rhs.dtype:
            return self.linear(matvec, rhs, start, noise)
        product = matvec if isinstance(matvec, CastProduct) else CastProduct(matvec, rhs.dtype)
        first = None if start is None else start.to(dtype)
        drawn = None if noise is None else lambda number: noise(number).to(dtype)
        x, converged, stats = self.linear(product, rhs.to(dtype), first, drawn)
        value = x.to(rhs.dtype)
        return Solution(value, converged & finite(value), stats)

    def products(self, n_params: int) -> int | None:
        return self.linear.products(n_params)
