from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, finish, judge


@register("linear", "conjugate_gradient")
@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradient (Hestenes and Stiefel 1952). One product an iteration, one more for a start.

    Exact after as many iterations as A has distinct eigenvalues, for positive definite A; the error falls
    by (sqrt(kappa) - 1) / (sqrt(kappa) + 1) an iteration. A task stops at ||r|| <= tolerance ||rhs||, r the
    recursive residual, which is reported at tolerance 0; a positive one is judged on the true residual, by
    one more product. On an indefinite A the iteration goes on, but a curvature p'Ap <= 0 is not covered by
    the theory: that task counts as not converged unless it met a positive tolerance.
    """

    krylov: ClassVar[bool] = True

    iterations: int = 5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        return conjugate_gradient(matvec, rhs, start, self.iterations, self.tolerance)

    def products(self, n_params: int) -> int | None:
        return self.iterations if self.tolerance == 0 else None


def conjugate_gradient(
    matvec: Matvec,
    rhs: Vectors,
    start: Vectors | None,
    iterations: int,
    tolerance: float,
    precondition: Matvec = lambda r: r,
) -> Solution:
    """See `ConjugateGradient`; the inner products are those of r with z = M^-1 r."""
    size, x, r = begin(matvec, rhs, start)
    p = z = precondition(r)
    bb, rr, rz = (rhs / size).square().sum(dim=1), (r * r).sum(dim=1), (r * z).sum(dim=1)
    curvature, taken, goal = torch.full_like(rr, torch.inf), torch.zeros_like(rr), tolerance**2 * bb
    active = rr > goal
    for _ in range(iterations):
        active = rr > goal  # a zero residual is never active
        if not active.any():
            break
        Ap = matvec(p)
        pAp = (p * Ap).sum(dim=1)
        active = active & (pAp != 0)
        curvature = torch.where(active, torch.minimum(curvature, pAp / (p * p).sum(dim=1)), curvature)
        alpha = torch.where(active, rz / torch.where(active, pAp, 1), 0)
        x = x + alpha[:, None] * p
        r = r - alpha[:, None] * Ap
        z = precondition(r)
        new_rz = (r * z).sum(dim=1)
        beta = torch.where(active, new_rz / torch.where(active, rz, 1), 0)
        p = torch.where(active[:, None], z + beta[:, None] * p, p)
        rz = torch.where(active, new_rz, rz)
        rr = torch.where(active, (r * r).sum(dim=1), rr)
        taken = taken + active
    null = ~active & (rr > torch.finfo(rr.dtype).eps ** 2 * bb)  # p'Ap = 0, and not as a mere underflow
    # On the way ||r|| may pass above ||rhs||; after P iterations theory has it at 0, and above is divergence.
    bounded = (rr <= bb) | (torch.isfinite(rr) & (taken < rhs.shape[1]))
    positive = (curvature > 0) & torch.isfinite(curvature)  # infinite: every p'Ap overflowed
    met, residual = positive & bounded & ~null | (rr == 0), (rr / torch.where(bb > 0, bb, 1)).sqrt()
    if tolerance > 0:
        met, residual = judge(matvec, rhs / size, x, rr.sqrt(), tolerance, taken)
    return finish(size, x, met, {"residual": residual, "iterations": taken, "smallest_curvature": curvature})
