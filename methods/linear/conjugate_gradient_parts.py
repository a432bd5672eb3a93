"""Conjugate gradient, plain and preconditioned, in pieces that are one kernel each when compiled."""

import torch
from torch import Tensor

from bench.api import Matvec, PerTask, Vectors
from methods.linear.dots import dot, times
from methods.linear.krylov import begin, restored


def first(
    matvec: Matvec,
    precondition: Matvec | None,
    dots: torch.dtype | None,
    rhs: Vectors,
    start: tuple[Vectors, ...],
) -> tuple[Tensor, PerTask, Vectors, Vectors, Vectors, PerTask, PerTask]:
    """What precedes the iterations of CG; ``start`` holds one or nothing."""
    size, x, r = begin(matvec, rhs, start[0] if start else None)
    p = r if precondition is None else precondition(r)
    b = rhs / size
    bb = b.square().sum(dim=1) if dots is None else dot(b, b, dots)
    rr, rz = dot(r, r, dots), dot(r, p, dots)
    return size, bb, x, r, p.clone(), rr, rz


def verdict(
    matvec: Matvec,
    precondition: Matvec | None,
    dots: torch.dtype | None,
    size: Tensor,
    x: Vectors,
    bb: PerTask,
    rr: PerTask,
    curvature: PerTask,
    taken: PerTask,
    active: PerTask,
    n_params: float | int | Tensor,
) -> tuple[Vectors, PerTask, PerTask]:
    """The solution, whether CG did what theory promises, and its own residual; at tolerance 0."""
    null = ~active & (rr > torch.finfo(rr.dtype).eps ** 2 * bb)  # p'Ap = 0, and not as a mere underflow
    # On the way ||r|| may pass above ||rhs||; after P iterations theory has it at 0, and above is divergence.
    bounded = (rr <= bb) | (torch.isfinite(rr) & (taken < n_params))
    positive = (curvature > 0) & torch.isfinite(curvature)  # infinite: every p'Ap overflowed
    x, met = restored(size, x, positive & bounded & ~null | (rr == 0))
    return x, met, (rr / torch.where(bb > 0, bb, 1)).sqrt()


def iterate(
    matvec: Matvec,
    precondition: Matvec | None,
    dots: torch.dtype | None,
    x: Vectors,
    r: Vectors,
    p: Vectors,
    rr: PerTask,
    rz: PerTask,
    curvature: PerTask,
    taken: PerTask,
    active: PerTask,
) -> tuple[Vectors, Vectors, Vectors, PerTask, PerTask, PerTask, PerTask, PerTask]:
    """One iteration of CG; what belongs to tasks that are not ``active`` stays."""
    Ap = matvec(p)
    pAp = dot(p, Ap, dots)
    active = active & (pAp != 0)
    curvature = torch.where(active, torch.minimum(curvature, pAp / dot(p, p, dots)), curvature)
    alpha = torch.where(active, rz / torch.where(active, pAp, 1), 0)
    x = x + times(alpha, p, dots)
    r = r - times(alpha, Ap, dots)
    z = r if precondition is None else precondition(r)
    new_rr = dot(r, r, dots)
    new_rz = new_rr if precondition is None else dot(r, z, dots)
    beta = torch.where(active, new_rz / torch.where(active, rz, 1), 0)
    p = torch.where(active[:, None], z + times(beta, p, dots), p)
    rr, rz = torch.where(active, new_rr, rr), torch.where(active, new_rz, rz)
    return x, r, p, rr, rz, curvature, taken + active, active
