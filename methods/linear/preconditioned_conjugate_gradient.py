from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import LinearSolver, Matvec, Noise, Preconditioner, Solution, Vectors, require
from bench.registry import register
from methods.linear.hestenes_stiefel import conjugate_gradient
from methods.linear.krylov import scale_of
from methods.preconditioner import Diagonal


@register("linear", "preconditioned_conjugate_gradient")
@dataclass(frozen=True)
class PreconditionedConjugateGradient(LinearSolver):
    """Conjugate gradient on M^-1/2 A M^-1/2 (Concus, Golub and O'Leary 1976): z = M^-1 r replaces r.

    Exact after as many iterations as M^-1 A has distinct eigenvalues, for positive definite A and M. Costs
    one product an iteration and those that building the preconditioner takes. It stops on ||r||, not on
    ||z||; all else is as in `ConjugateGradient`.
    """

    krylov: ClassVar[bool] = True

    iterations: int = 5
    tolerance: float = 0.0
    preconditioner: Preconditioner = field(default_factory=Diagonal)

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        precondition = self.preconditioner(matvec, rhs, noise)
        # The scale of M drops out of the equations; in these units of M^-1, p'p stays in range.
        size = scale_of(precondition(rhs / scale_of(rhs)[:, None]))[:, None]
        return conjugate_gradient(
            matvec, rhs, start, self.iterations, self.tolerance, lambda r: precondition(r) / size
        )

    def products(self, n_params: int) -> int | None:
        if self.tolerance > 0:
            return None
        return self.iterations + self.preconditioner.products(n_params)
