from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, finish, judge, scale_of
from methods.preconditioner.sketch import decline_half


@register("linear", "gmres")
@dataclass(frozen=True)
class GMRES(LinearSolver):
    """The least ||rhs - A x|| over the Krylov space, by a full Arnoldi basis (Saad and Schultz 1986).

    x = start + V y, y the least squares solution of ||r_0|| e_1 = H y; no restarts. The basis is
    orthogonalised twice, so that it holds where the Lanczos recurrence of `Minres` loses it; the price is
    T P ``iterations`` numbers of memory. A may be indefinite. Exact once ``iterations`` (the dimension,
    at most P) reaches the number of distinct eigenvalues. One product an iteration, one more for a start and
    one for the true residual, which judges a positive tolerance; with 0 that of the rotations is reported.
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
        decline_half(rhs)
        size, x, r = begin(matvec, rhs, start)
        scale, residual = torch.linalg.vector_norm(rhs / size, dim=1), torch.linalg.vector_norm(r, dim=1)
        m = min(self.iterations, rhs.shape[1])
        V = rhs.new_zeros(len(rhs), rhs.shape[1], m + 1)
        R, g = torch.eye(m).to(rhs).repeat(len(rhs), 1, 1), rhs.new_zeros(len(rhs), m)
        rotations, size_w = list[tuple[Tensor, Tensor]](), torch.ones_like(g)
        active, iterations = residual > self.tolerance * scale, torch.zeros_like(residual)
        V[:, :, 0] = r.nan_to_num() / torch.where(residual > 0, residual, 1)[:, None]
        for j in range(m):
            if not active.any():
                break
            w = matvec(V[:, :, j])
            size_w[:, j] = scale_of(w)  # of column j of R: squares stay in range
            w = w / size_w[:, j, None]
            length, h = torch.linalg.vector_norm(w, dim=1), torch.zeros_like(V[:, 0])
            for _ in range(2):
                overlap = V.mT @ w.unsqueeze(-1)
                w, h = w - (V @ overlap).squeeze(-1), h + overlap.squeeze(-1)
            beta = torch.linalg.vector_norm(w, dim=1)
            grows = beta > 10 * torch.finfo(w.dtype).eps * length  # else the basis is complete
            beta = torch.where(grows, beta, 0)
            V[:, :, j + 1] = torch.where(grows[:, None], w / torch.where(grows, beta, 1)[:, None], 0)
            for i, (c, s) in enumerate(rotations):
                h[:, i], h[:, i + 1] = c * h[:, i] + s * h[:, i + 1], c * h[:, i + 1] - s * h[:, i]
            radius = torch.hypot(h[:, j], beta)
            active = active & (radius != 0)  # NaN goes on, into y and the residual
            divisor = torch.where(active, radius, 1)
            c, s = h[:, j] / divisor, beta / divisor
            rotations.append((c, s))
            h[:, j] = radius
            R[:, : j + 1, j] = torch.where(active[:, None], h[:, : j + 1], R[:, : j + 1, j])
            g[:, j] = torch.where(active, c * residual, 0)  # an ended task takes no further column
            residual = torch.where(active, -s * residual, residual)
            iterations = iterations + active
            active = active & grows & (residual.abs() > self.tolerance * scale)
        y = torch.linalg.solve_triangular(R, g.unsqueeze(-1), upper=True) / size_w.unsqueeze(-1)
        x = x + (V[:, :, :m] @ y).squeeze(-1)
        met, residual = judge(matvec, rhs / size, x, residual.abs(), self.tolerance, iterations)
        return finish(size, x, met, {"residual": residual, "iterations": iterations})

    def products(self, n_params: int) -> int | None:
        return min(self.iterations, n_params) if self.tolerance == 0 else None
