from dataclasses import dataclass

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import begin, curvature_along, finish, verdict


@register("linear", "fixed_point")
@dataclass(frozen=True)
class FixedPoint(LinearSolver):
    """x <- x + step (rhs - A x), the fixed-point iteration of Grazzi et al. (2020).

    One product an iteration, one more for a start. From zero it gives the iterates of `Neumann`; here the
    residual is computed anew from x, so its error does not build up. The error falls by max
    |1 - step eigenvalue| an iteration; exact in one for A = I / step; diverges for step >= 2 / L.
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
        size, x, r = begin(matvec, rhs, start)
        b = rhs / size
        scale, norm = torch.linalg.vector_norm(b, dim=1), torch.linalg.vector_norm(r, dim=1)
        curvature, iterations = torch.full_like(scale, torch.inf), torch.zeros_like(scale)
        largest = torch.zeros_like(scale)
        for _ in range(self.iterations):
            active = norm > self.tolerance * scale
            if not active.any():
                break
            x = torch.where(active[:, None], x + self.step * r, x)
            new = torch.where(active[:, None], b - matvec(x), r)
            # r is computed anew, with the rounding of b and of A x; ||A|| is at least the ``largest`` seen.
            terms = scale + norm + largest * torch.linalg.vector_norm(x, dim=1)
            rounding = 4 * torch.finfo(r.dtype).eps * terms
            seen = curvature_along(r, r - new, norm, rounding, self.step)
            largest = torch.where(seen < torch.inf, torch.maximum(largest, seen), largest)
            curvature = torch.where(active, torch.minimum(curvature, seen), curvature)
            r, norm = new, torch.linalg.vector_norm(new, dim=1)
            iterations = iterations + active
        met, residual = verdict(norm, scale, self.tolerance)
        if self.tolerance == 0:
            met = met & (curvature > 0)
        stats = {"residual": residual, "iterations": iterations, "smallest_curvature": curvature}
        return finish(size, x, met, stats)

    def products(self, n_params: int) -> int | None:
        return self.iterations if self.tolerance == 0 else None
