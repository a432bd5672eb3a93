"""What the solvers share: units, the scaled start, the verdict, the final `Solution`."""

from typing import Any

import torch
from torch import Tensor

from bench.api import Matvec, PerTask, Solution, Vectors, finite


def scale_of(v: Vectors) -> PerTask:
    """The largest power of two up to v's largest entry; a half where that is 0 or not finite.

    Divided by it, v has squares that neither overflow nor underflow, and nothing is rounded.
    """
    largest = torch.linalg.vector_norm(v, torch.inf, dim=1)
    exponent = torch.frexp(largest.float() if v.dtype.itemsize < 4 else largest).exponent
    return torch.ldexp(torch.full_like(largest, 0.5), exponent)


def curvature_along(
    v: Vectors, Av: Vectors, norm: PerTask, rounding: PerTask | float, step: float = 1.0
) -> PerTask:
    """v'Av / (step ||v||^2), ``norm`` = ||v||; infinite where underflow or ``rounding`` may make it up.

    ``rounding`` is that of Av. Half precision has no room for the squares: they are taken in single.
    """
    if v.dtype in (torch.float16, torch.bfloat16):
        return curvature_along(v.float(), Av.float(), norm.float(), rounding, step).to(v.dtype)
    limits, square = torch.finfo(v.dtype), norm.square()
    seen = (v * Av).sum(dim=1) / (step * square)
    unseen = (square <= limits.tiny / limits.eps) | (step * seen.abs() * norm <= rounding)
    return torch.where(unseen, torch.inf, seen)


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


def judge(
    matvec: Matvec, b: Vectors, x: Vectors, norm: PerTask, tolerance: float, iterations: PerTask
) -> tuple[PerTask, PerTask]:
    """Whether ||b - A x|| is small enough, and its ratio to ||b||; ``norm`` is what the recurrence claims.

    Rounding parts the claim from the truth, so that a positive tolerance costs one more product. A tolerance
    of 0 asks only that the claim is not above ||b||: the iteration has not diverged.
    """
    scale = torch.linalg.vector_norm(b, dim=1)
    if tolerance > 0 and iterations.any():  # before the first iteration the claim is the truth
        norm = torch.linalg.vector_norm(b - matvec(x), dim=1)
    return verdict(norm, scale, tolerance)


def verdict(norm: PerTask, scale: PerTask, tolerance: float) -> tuple[PerTask, PerTask]:
    """Whether the residual ``norm`` is small enough, by `judge`; its ratio to ``scale`` = ||b||."""
    met = norm <= (tolerance * scale if tolerance > 0 else scale)
    return met, norm / torch.where(scale > 0, scale, 1)


def restored(size: Tensor, x: Vectors, met: PerTask) -> tuple[Vectors, PerTask]:
    """Back to the scale of rhs. Infinite or undefined right-hand sides come back as NaN, not as 0."""
    x = torch.where(torch.isfinite(size), x * size, torch.nan)
    return x, met & finite(x)


def finish(size: Tensor, x: Vectors, met: PerTask, stats: dict[str, Any]) -> Solution:
    """The `Solution` at the scale of rhs, see `restored`."""
    return Solution(*restored(size, x, met), stats)
