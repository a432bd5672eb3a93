from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, finish, judge, scale_of


@register("linear", "normal_cg")
@dataclass(frozen=True)
class NormalCG(LinearSolver):
    """Conjugate gradient on A A x = A rhs (CGLS, Hestenes and Stiefel 1952; torchopt's solve_normal_cg).

    Two products an iteration, one more for a start. A may be indefinite; the condition number is squared:
    the error falls by (kappa - 1) / (kappa + 1) an iteration. Exact after as many iterations as A has
    distinct |eigenvalues|. It stops on the recursive residual of A x = rhs, which never grows, not of the
    normal one; a positive tolerance is judged on the true one, by one more product.
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
        # s and p are in units of ``size_s``, q of ``size_s size_q``: their squares stay in range.
        p, ss, size_s = torch.zeros_like(x), torch.ones_like(norm), torch.full_like(norm, torch.inf)
        iterations = torch.zeros_like(norm)
        for _ in range(self.iterations):
            active = norm > self.tolerance * scale
            if not active.any():
                break
            s, before = matvec(r), size_s
            size_s = scale_of(s)
            s = s / size_s[:, None]
            new_ss = (s * s).sum(dim=1)
            p = s + (new_ss / ss * (size_s / before))[:, None] * p
            q = matvec(p)
            size_q = scale_of(q)
            q = q / size_q[:, None]
            qq = (q * q).sum(dim=1)
            active = active & (qq != 0)  # NaN goes on, into x and r
            alpha = torch.where(active, new_ss / torch.where(active, qq, 1) * (size_s / size_q), 0)
            x = torch.where(active[:, None], x + (alpha / size_q)[:, None] * p, x)
            r = torch.where(active[:, None], r - alpha[:, None] * q, r)
            ss, norm = torch.where(active, new_ss, 1), torch.linalg.vector_norm(r, dim=1)
            iterations = iterations + active
        met, residual = judge(matvec, rhs / size, x, norm, self.tolerance, iterations)
        return finish(size, x, met, {"residual": residual, "iterations": iterations})

    def products(self, n_params: int) -> int | None:
        return 2 * self.iterations if self.tolerance == 0 else None
