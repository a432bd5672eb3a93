from dataclasses import dataclass
from typing import ClassVar

from bench.api import LinearSolver, Matvec, Noise, Precision, Solution, Vectors, dtype_of, require
from bench.registry import register
from methods.linear.hestenes_stiefel import conjugate_gradient


@register("linear", "conjugate_gradient")
@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradient (Hestenes and Stiefel 1952). One product an iteration, one more for a start.

    Exact after as many iterations as A has distinct eigenvalues, for positive definite A; the error falls
    by (sqrt(kappa) - 1) / (sqrt(kappa) + 1) an iteration. A task stops at ||r|| <= tolerance ||rhs||, r the
    recursive residual, which is reported at tolerance 0; a positive one is judged on the true residual, by
    one more product. On an indefinite A the iteration goes on, but a curvature p'Ap <= 0 is not covered by
    the theory: that task counts as not converged unless it met a positive tolerance. ``dots`` is the
    precision in which inner products are multiplied and summed and their quotients kept; None: that of the
    vectors.
    """

    krylov: ClassVar[bool] = True

    iterations: int = 5
    tolerance: float = 0.0
    dots: Precision | None = None
    later: ClassVar[tuple[str, ...]] = ("dots",)

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        dots = None if self.dots is None else dtype_of(self.dots)
        return conjugate_gradient(matvec, rhs, start, self.iterations, self.tolerance, dots=dots)

    def products(self, n_params: int) -> int | None:
        return self.iterations if self.tolerance == 0 else None
