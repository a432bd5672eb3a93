"""What the iterative solvers share: the scaled start, the final `Solution`, the conjugate gradient loop."""

from typing import Any

import torch
from torch import Tensor

from bench.api import Matvec, PerTask, Solution, Vectors


def begin(matvec: Matvec, rhs: Vectors, start: Vectors | None) -> tuple[Tensor, Vectors, Vectors]:
    """``size``, x / size and (rhs - A x) / size; a product only where there is a start.

    ``size`` [T, 1] scales to a largest entry of 1, so that squares neither overflow nor underflow in half
    precision. A zero right-hand side has the solution zero, whatever the start.
    """
    size = rhs.abs().amax(dim=1, keepdim=True)
    size = torch.where(size == 0, 1, size)
    if start is None:
        return size, torch.zeros_like(rhs), rhs / size
    x = torch.where((rhs == 0).all(dim=1, keepdim=True), 0, start / size)
    return size, x, rhs / size - matvec(x)


def finish(size: Tensor, x: Vectors, met: PerTask, stats: dict[str, Any]) -> Solution:
    """Back to the scale of rhs. Infinite or undefined right-hand sides come back as NaN, not as 0."""
    x = torch.where(torch.isfinite(size), x * size, torch.nan)
    return Solution(x, met & torch.isfinite(x).all(dim=1), stats)


def conjugate_gradient(
    matvec: Matvec,
    rhs: Vectors,
    start: Vectors | None,
    iterations: int,
    tolerance: float,
    precondition: Matvec | None = None,
) -> Solution:
    """See `ConjugateGradient`; with z = M^-1 r in the inner products if ``precondition`` is given."""
    size, x, r = begin(matvec, rhs, start)
    z = r if precondition is None else precondition(r)
    p = z
    bb, rr, rz = (rhs / size).square().sum(dim=1), (r * r).sum(dim=1), (r * z).sum(dim=1)
    goal = tolerance**2 * bb
    curvature = torch.full_like(rr, torch.inf)
    taken = torch.zeros_like(rr)
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
        z = r if precondition is None else precondition(r)
        new_rz = (r * z).sum(dim=1)
        beta = torch.where(active, new_rz / torch.where(active, rz, 1), 0)
        p = torch.where(active[:, None], z + beta[:, None] * p, p)
        rz = torch.where(active, new_rz, rz)
        rr = torch.where(active, (r * r).sum(dim=1), rr)
        taken = taken + active
    met = rr <= goal if tolerance > 0 else (curvature > 0) | (rr == 0)
    residual = (rr / torch.where(bb > 0, bb, 1)).sqrt()
    stats = {"residual": residual, "iterations": taken, "smallest_curvature": curvature}
    return finish(size, x, met, stats)
