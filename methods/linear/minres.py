from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, finish, scale_of, verdict


@register("linear", "minres")
@dataclass(frozen=True)
class Minres(LinearSolver):
    """The least ||rhs - A x|| over the Krylov space, by Lanczos and rotations (Paige and Saunders 1975).

    A may be indefinite. Exact after as many iterations as A has distinct eigenvalues. One product an
    iteration, one for the true residual at the end, and one for a start. It stops on the residual that the
    rotations give; ``converged`` is decided on the true one, which rounding keeps above about
    eps kappa^2 (Sleijpen, van der Vorst and Modersitzki 2000).
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
        b = rhs / size
        scale, phi = (torch.linalg.vector_norm(u, dim=1, keepdim=True) for u in (b, r))
        v, v_old, d, d_old = r / torch.where(phi > 0, phi, 1), *(torch.zeros_like(x) for _ in range(3))
        beta, s, s_old, iterations = (torch.zeros_like(phi) for _ in range(4))
        c, c_old = torch.ones_like(phi), torch.ones_like(phi)
        curvature, size_A = torch.full_like(phi, torch.inf), torch.ones_like(phi)
        for i in range(self.iterations):
            active = phi.abs() > self.tolerance * scale
            if not active.any():
                break
            w = matvec(v)
            if i == 0:
                size_A = scale_of(w)[:, None]  # recurrences of A / size_A: squares stay in range
            w = w / size_A - beta * v_old
            alpha = (v * w).sum(dim=1, keepdim=True)
            w = w - alpha * v
            new_beta = torch.linalg.vector_norm(w, dim=1, keepdim=True)
            # The new column of the tridiagonal matrix after the last two rotations, then its own rotation.
            epsilon, delta, gamma = s_old * beta, c * c_old * beta + s * alpha, c * alpha - s * c_old * beta
            size_of_column = torch.hypot(gamma, new_beta)
            active = active & (size_of_column != 0)  # NaN goes on, into x
            curvature = torch.where(active, torch.minimum(curvature, alpha * size_A), curvature)
            divisor = torch.where(active, size_of_column, 1)
            d, d_old = (v - delta * d - epsilon * d_old) / divisor, d
            c, c_old, s, s_old = gamma / divisor, c, new_beta / divisor, s
            x = torch.where(active, x + c * phi / size_A * d, x)
            phi = torch.where(active, -s * phi, phi)
            v, v_old, beta = w / torch.where(new_beta > 0, new_beta, 1), v, new_beta
            iterations = iterations + active
        norm, scale = torch.linalg.vector_norm(b - matvec(x), dim=1), scale[:, 0]
        met, residual = verdict(norm, scale, self.tolerance)
        stats = {"residual": residual, "iterations": iterations[:, 0], "smallest_curvature": curvature[:, 0]}
        return finish(size, x, met, stats)

    def products(self, n_params: int) -> int | None:
        return self.iterations + 1 if self.tolerance == 0 else None
