"""The iteration of conjugate gradient, plain and preconditioned."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.api import Matvec, Solution, Vectors, fused
from methods.linear import conjugate_gradient_parts as parts
from methods.linear.krylov import judge, restored


def conjugate_gradient(
    matvec: Matvec,
    rhs: Vectors,
    start: Vectors | None,
    iterations: int,
    tolerance: float,
    precondition: Matvec | None = None,
    dots: torch.dtype | None = None,
) -> Solution:
    """See `ConjugateGradient`; with ``precondition``, the inner products are those of r with z = M^-1 r."""

    def part(function: Callable, *static: Any) -> Callable:
        if precondition is None:
            return fused(matvec, function, None, dots, *static)
        # A closure over tensors names no kernel.
        return partial(function, matvec, precondition, dots, *static)

    size, bb, x, r, p, rr, rz = part(parts.first)(rhs, () if start is None else (start,))
    curvature, taken, goal = torch.full_like(rr, torch.inf), torch.zeros_like(rr), tolerance**2 * bb
    active, iterate = rr > goal, part(parts.iterate)
    for _ in range(iterations):
        active = rr > goal  # a zero residual is never active
        if not active.any():
            break
        x, r, p, rr, rz, curvature, taken, active = iterate(x, r, p, rr, rz, curvature, taken, active)
    if tolerance > 0:
        met, residual = judge(matvec, rhs / size, x, rr.sqrt(), tolerance, taken)
        x, met = restored(size, x, met)
    else:
        x, met, residual = part(parts.verdict)(size, x, bb, rr, curvature, taken, active, rhs.shape[1])
    return Solution(x, met, {"residual": residual, "iterations": taken, "smallest_curvature": curvature})
