"""The iteration of conjugate gradient, plain and preconditioned."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.api import Matvec, PerTask, Solution, Vectors, fused
from methods.linear.krylov import begin, finish, judge


def conjugate_gradient(
    matvec: Matvec,
    rhs: Vectors,
    start: Vectors | None,
    iterations: int,
    tolerance: float,
    precondition: Matvec | None = None,
) -> Solution:
    """See `ConjugateGradient`; with ``precondition``, the inner products are those of r with z = M^-1 r."""

    def part(function: Callable, *static: Any) -> Callable:
        if precondition is None:
            return fused(matvec, function, None, *static)
        return partial(function, matvec, precondition, *static)  # a closure over tensors names no kernel

    size, bb, x, r, p, rr, rz = part(_begin)(rhs, () if start is None else (start,))
    curvature, taken, goal = torch.full_like(rr, torch.inf), torch.zeros_like(rr), tolerance**2 * bb
    active, iterate = rr > goal, part(_iterate)
    for _ in range(iterations):
        active = rr > goal  # a zero residual is never active
        if not active.any():
            break
        x, r, p, rr, rz, curvature, taken, active = iterate(x, r, p, rr, rz, curvature, taken, active)
    if tolerance > 0:
        met, residual = judge(matvec, rhs / size, x, rr.sqrt(), tolerance, taken)
    else:
        met, residual = part(_verdict)(bb, rr, curvature, taken, active, rhs.shape[1])
    return finish(size, x, met, {"residual": residual, "iterations": taken, "smallest_curvature": curvature})


def _begin(
    matvec: Matvec, precondition: Matvec | None, rhs: Vectors, start: tuple[Vectors, ...]
) -> tuple[Tensor, PerTask, Vectors, Vectors, Vectors, PerTask, PerTask]:
    size, x, r = begin(matvec, rhs, start[0] if start else None)
    p = r if precondition is None else precondition(r)
    bb, rr, rz = (rhs / size).square().sum(dim=1), (r * r).sum(dim=1), (r * p).sum(dim=1)
    return size, bb, x, r, p.clone(), rr, rz


def _verdict(
    matvec: Matvec,
    precondition: Matvec | None,
    bb: PerTask,
    rr: PerTask,
    curvature: PerTask,
    taken: PerTask,
    active: PerTask,
    n_params: int | Tensor,
) -> tuple[PerTask, PerTask]:
    """At tolerance 0: whether the iteration did what theory promises, and its own residual."""
    null = ~active & (rr > torch.finfo(rr.dtype).eps ** 2 * bb)  # p'Ap = 0, and not as a mere underflow
    # On the way ||r|| may pass above ||rhs||; after P iterations theory has it at 0, and above is divergence.
    bounded = (rr <= bb) | (torch.isfinite(rr) & (taken < n_params))
    positive = (curvature > 0) & torch.isfinite(curvature)  # infinite: every p'Ap overflowed
    return positive & bounded & ~null | (rr == 0), (rr / torch.where(bb > 0, bb, 1)).sqrt()


def _iterate(
    matvec: Matvec,
    precondition: Matvec | None,
    x: Vectors,
    r: Vectors,
    p: Vectors,
    rr: PerTask,
    rz: PerTask,
    curvature: PerTask,
    taken: PerTask,
    active: PerTask,
) -> tuple[Vectors, Vectors, Vectors, PerTask, PerTask, PerTask, PerTask, PerTask]:
    Ap = matvec(p)
    pAp = (p * Ap).sum(dim=1)
    active = active & (pAp != 0)
    curvature = torch.where(active, torch.minimum(curvature, pAp / (p * p).sum(dim=1)), curvature)
    alpha = torch.where(active, rz / torch.where(active, pAp, 1), 0)
    x = x + alpha[:, None] * p
    r = r - alpha[:, None] * Ap
    z = r if precondition is None else precondition(r)
    new_rr = (r * r).sum(dim=1)
    new_rz = new_rr if precondition is None else (r * z).sum(dim=1)
    beta = torch.where(active, new_rz / torch.where(active, rz, 1), 0)
    p = torch.where(active[:, None], z + beta[:, None] * p, p)
    rr, rz = torch.where(active, new_rr, rr), torch.where(active, new_rz, rz)
    return x, r, p, rr, rz, curvature, taken + active, active
