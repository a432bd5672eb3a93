from dataclasses import dataclass

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, curvature_along, finish, judge


@register("linear", "neumann")
@dataclass(frozen=True)
class Neumann(LinearSolver):
    """Truncated Neumann series (Lorraine et al. 2020): x = step * sum_{j<n} (I - step A)^j rhs.

    One product an iteration: v_{j+1} = v_j - step A v_j, and rhs - A x = v_n up to rounding: the residual.
    A positive tolerance is judged on rhs - A x itself, by one more product. The error falls by max
    |1 - step eigenvalue| an iteration; diverges for step >= 2 / L.
    """

    iterations: int = 10
    step: float = 0.01
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.step > 0, "step", self.step, "a positive number below 2 / (largest eigenvalue of A)")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        size, x, v = begin(matvec, rhs, start)
        scale, norm = torch.linalg.vector_norm(rhs / size, dim=1), torch.linalg.vector_norm(v, dim=1)
        iterations = torch.zeros_like(scale)
        curvature = torch.full_like(scale, torch.inf)
        for _ in range(self.iterations):
            active = norm > self.tolerance * scale
            if not active.any():
                break
            Av = matvec(v)
            seen = curvature_along(v, Av, norm, torch.finfo(v.dtype).tiny)
            curvature = torch.where(active, torch.minimum(curvature, seen), curvature)
            x = torch.where(active[:, None], x + self.step * v, x)
            v = torch.where(active[:, None], v - self.step * Av, v)
            norm = torch.linalg.vector_norm(v, dim=1)
            iterations = iterations + active
        met, residual = judge(matvec, rhs / size, x, norm, self.tolerance, iterations)
        if self.tolerance == 0:
            met = met & (curvature > 0)
        stats = {"residual": residual, "iterations": iterations, "smallest_curvature": curvature}
        return finish(size, x, met, stats)

    def products(self, n_params: int) -> int | None:
        return self.iterations if self.tolerance == 0 else None
