from dataclasses import dataclass

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, finish
from methods.preconditioner.sketch import decline_half


@register("linear", "gmres")
@dataclass(frozen=True)
class GMRES(LinearSolver):
    """The least ||rhs - A x|| over the Krylov space, by a full Arnoldi basis (Saad and Schultz 1986).

    x = start + V y, y the least squares solution of ||r_0|| e_1 = H y; no restarts. The basis is
    orthogonalised twice, so that it holds where the Lanczos recurrence of `Minres` loses it; the price is
    T P ``iterations`` numbers of memory. A may be indefinite. Exact once ``iterations`` (the dimension,
    at most P) reaches the number of distinct eigenvalues. One product an iteration, one more for a start.
    """

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
        scale, norm = torch.linalg.vector_norm(rhs / size, dim=1), torch.linalg.vector_norm(r, dim=1)
        dimension = min(self.iterations, rhs.shape[1])
        V = rhs.new_zeros(len(rhs), rhs.shape[1], dimension + 1)
        H = rhs.new_zeros(len(rhs), dimension + 1, dimension)
        first, iterations = rhs.new_zeros(len(rhs), dimension + 1, 1), torch.zeros_like(norm)
        active = norm > self.tolerance * scale
        first[:, 0, 0] = torch.where(active, norm, 0)
        V[:, :, 0] = torch.where(active, 1 / norm, 0)[:, None] * r.nan_to_num()
        left, update = r, torch.zeros_like(r)
        for j in range(dimension):
            if not active.any():
                break
            w = matvec(V[:, :, j])
            length = torch.linalg.vector_norm(w, dim=1)
            for _ in range(2):
                overlap = V.mT @ w.unsqueeze(-1)
                w = w - (V @ overlap).squeeze(-1)
                H[:, :, j] += overlap.squeeze(-1)
            beta = torch.linalg.vector_norm(w, dim=1)
            # A basis that is complete ends there; the column of a task that has ended has no effect on y.
            grows = active & (beta > 10 * torch.finfo(w.dtype).eps * length)
            H[:, j, j] = torch.where(active, H[:, j, j], 1)
            H[:, j + 1, j] = torch.where(grows, beta, 0)
            V[:, :, j + 1] = torch.where(grows[:, None], w / torch.where(grows, beta, 1)[:, None], 0)
            iterations = iterations + active
            if self.tolerance > 0 or j + 1 == dimension or not grows.any():
                y = torch.linalg.lstsq(H[:, : j + 2, : j + 1], first[:, : j + 2]).solution
                update = (V[:, :, : j + 1] @ y).squeeze(-1)
                left = r - (V[:, :, : j + 2] @ (H[:, : j + 2, : j + 1] @ y)).squeeze(-1)
                norm = torch.linalg.vector_norm(left, dim=1)
            active = grows & (norm > self.tolerance * scale)
        met = norm <= self.tolerance * scale if self.tolerance > 0 else torch.isfinite(norm)
        stats = {"residual": norm / torch.where(scale > 0, scale, 1), "iterations": iterations}
        return finish(size, x + update, met, stats)

    def products(self, n_params: int) -> int | None:
        return min(self.iterations, n_params) if self.tolerance == 0 else None
