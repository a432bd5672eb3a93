from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, finish


@register("linear", "normal_cg")
@dataclass(frozen=True)
class NormalCG(LinearSolver):
    """Conjugate gradient on A A x = A rhs (CGLS, Hestenes and Stiefel 1952; torchopt's solve_normal_cg).

    Two products an iteration, one more for a start. A may be indefinite; the condition number is squared:
    the error falls by (kappa - 1) / (kappa + 1) an iteration. Exact after as many iterations as A has
    distinct |eigenvalues|. It stops on the residual of A x = rhs, which never grows, not of the normal one.
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
        size, x, r = begin(matvec, rhs, start)
        scale, norm = torch.linalg.vector_norm(rhs / size, dim=1), torch.linalg.vector_norm(r, dim=1)
        p, ss = torch.zeros_like(x), torch.ones_like(norm)
        iterations = torch.zeros_like(norm)
        for _ in range(self.iterations):
            active = norm > self.tolerance * scale
            if not active.any():
                break
            s = matvec(r)
            new_ss = (s * s).sum(dim=1)
            p = s + (new_ss / ss)[:, None] * p
            q = matvec(p)
            qq = (q * q).sum(dim=1)
            active = active & (qq > 0)
            alpha = torch.where(active, new_ss / torch.where(active, qq, 1), 0)
            x = torch.where(active[:, None], x + alpha[:, None] * p, x)
            r = torch.where(active[:, None], r - alpha[:, None] * q, r)
            ss, norm = torch.where(active, new_ss, 1), torch.linalg.vector_norm(r, dim=1)
            iterations = iterations + active
        met = norm <= self.tolerance * scale if self.tolerance > 0 else torch.isfinite(norm)
        stats = {"residual": norm / torch.where(scale > 0, scale, 1), "iterations": iterations}
        return finish(size, x, met, stats)

    def products(self, n_params: int) -> int | None:
        return 2 * self.iterations if self.tolerance == 0 else None
