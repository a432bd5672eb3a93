from dataclasses import dataclass

import torch

from bench.api import LinearSolver, Matvec, Solution, Vectors, require
from bench.registry import register


@register("linear", "conjugate_gradient")
@dataclass(frozen=True)
class ConjugateGradient(LinearSolver):
    """Conjugate gradient (Hestenes and Stiefel 1952) from x = 0. One product an iteration.

    Exact after as many iterations as A has distinct eigenvalues, for positive definite A; the error falls
    by (sqrt(kappa) - 1) / (sqrt(kappa) + 1) an iteration. A task stops at ||r|| <= tolerance ||rhs||.
    On an indefinite A the iteration goes on, since the equations still hold, but a curvature p'Ap <= 0 is
    no longer covered by the theory: that task counts as not converged unless it met a positive tolerance.
    The residual is the recursive one, equal to the true one up to rounding.
    """

    iterations: int = 5
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")

    def __call__(self, matvec: Matvec, rhs: Vectors) -> Solution:
        # Scaled to a largest entry of 1, so that squares neither overflow nor underflow in half precision.
        size = rhs.abs().amax(dim=1, keepdim=True)
        size = torch.where(size == 0, 1, size)
        x, r = torch.zeros_like(rhs), rhs / size
        p = r
        rr = (r * r).sum(dim=1)
        goal = self.tolerance**2 * rr
        scale = torch.where(rr > 0, rr, 1)
        curvature = torch.full_like(rr, torch.inf)
        iterations = torch.zeros_like(rr)
        for _ in range(self.iterations):
            active = rr > goal  # a zero residual is never active
            if not active.any():
                break
            Ap = matvec(p)
            pAp = (p * Ap).sum(dim=1)
            active = active & (pAp != 0)
            curvature = torch.where(active, torch.minimum(curvature, pAp / (p * p).sum(dim=1)), curvature)
            alpha = torch.where(active, rr / torch.where(active, pAp, 1), 0)
            x = x + alpha[:, None] * p
            r = r - alpha[:, None] * Ap
            new_rr = (r * r).sum(dim=1)
            beta = torch.where(active, new_rr / torch.where(active, rr, 1), 0)
            p = torch.where(active[:, None], r + beta[:, None] * p, p)
            rr = torch.where(active, new_rr, rr)
            iterations = iterations + active
        met = rr <= goal if self.tolerance > 0 else (curvature > 0) | (rr == 0)
        # Infinite or undefined right-hand sides have no active iteration; they come back as NaN, not as 0.
        x = torch.where(torch.isfinite(size), x * size, torch.nan)
        stats = {"residual": (rr / scale).sqrt(), "iterations": iterations, "smallest_curvature": curvature}
        return Solution(x, met & torch.isfinite(x).all(dim=1), stats)
