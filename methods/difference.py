from typing import Literal

import torch

from bench.api import Bilevel, PerTask, Vectors

MOST = 0.03
Difference = Literal["symmetric", "forward"]


def nudges(
    bilevel: Bilevel, phi: Vectors, nudge: float, difference: Difference, tolerance: float = 0.0
) -> PerTask:
    """``nudge`` for every task; 0 picks one that moves phi by about eps^(1/3) (forward: 1/2) of its size.

    A nudge nu moves the minimiser by at most nu |grad query_loss| / strength; the power balances the error of
    the difference against that of phi: eps is the dtype's or, where it is larger, the ``tolerance``. Never
    above `MOST`, so that the query loss stays a perturbation where its gradient is small. Costs one query
    gradient where it picks.
    """
    if nudge > 0:
        return torch.full_like(phi[:, 0], nudge)
    power = 1 / 3 if difference == "symmetric" else 1 / 2
    noise = max(torch.finfo(phi.dtype).eps, tolerance)
    reach = noise**power * (1 + torch.linalg.vector_norm(phi, dim=1))
    size = torch.linalg.vector_norm(bilevel.outer_grad(phi), dim=1)
    return (reach * max(bilevel.strength, 1e-3) / torch.where(size > 0, size, 1)).clamp(max=MOST)
