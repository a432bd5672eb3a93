"""How the adapted parameters, and with them the query loss, follow theta: smoothly, or in jumps.

An inner solver that compares (a line search, a stopping rule) maps theta to phi(theta) with a jump wherever
a comparison turns. No derivative sees a jump, and a meta-gradient that leaves a dependence on theta out is
not even the derivative between jumps. Both are measured in float64 on the method itself:

    mismatch   at distance h, the relative error of the meta-gradient g as the derivative of F(theta) =
               query_loss(phi(theta)): with central differences of F over 2 h |theta| along random directions
               u, uniform, sqrt(P mean_u (difference - g'u)^2) / |g|, which has mean square |F' - g|^2 / |g|^2
    jump       the largest jump of phi - theta, to its size, on segments of length 2 `SEGMENT` |theta| around
               theta along the same directions; 0 where there is none, by the rule of `quotients`
    growth     the quotient |change of phi - theta| / distance on the last piece that the rule looks at, to
               that on the whole segment; the largest of the segments. About 1 for a smooth map; where there
               is a jump it grows as 1 / distance

Directions depend on the cell's seed and the task alone.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import inputs
from bench.api import Bilevel, Estimate, Vectors
from bench.assumptions.quotients import KINK, quotient
from bench.at_once import estimate, usual
from bench.inputs import Prepared

DISTANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # to |theta|
SEGMENT = 1e-2  # about an outer step
DIRECTIONS = 3


def observe(cell: Prepared, exact: Bilevel) -> dict[str, Any]:
    """``distances``; of each task ``mismatch`` (a list over them), ``jump``, ``growth``. None: not known.

    ``exact`` is the cell's problem in float64 on the CPU. Costs 1 + 2 distances x directions + 22 directions
    calls of the method.
    """
    theta, n_tasks = exact.start, len(exact.tasks)
    size = theta.norm(dim=1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    u = torch.stack([_directions(seed, theta.shape[1]) for seed in cell.seeds], dim=1)  # [D, T, P]
    grad = _call(cell, exact, theta).meta_grad
    errors = []
    for h in DISTANCES:
        ends = torch.cat([theta + h * size * u, theta - h * size * u]).flatten(0, 1)
        up, down = _query_loss(cell, exact, ends).reshape(2, DIRECTIONS, n_tasks)
        errors.append((up - down) / (2 * h * size[:, 0]) - (grad * u).sum(dim=2))
    spread = torch.stack(errors).square().mean(dim=1)  # [H, T]
    mismatch = (theta.shape[1] * spread).sqrt() / grad.norm(dim=1)
    starts, ends = ((theta + side * SEGMENT * size * u).flatten(0, 1) for side in (-1, 1))
    moved = partial(_moved, cell, exact)
    last = quotient(moved, starts, ends)
    whole = (moved(ends) - moved(starts)).norm(dim=1) / (ends - starts).norm(dim=1)
    jump = np.where(np.nan_to_num(last.slope) < KINK, last.jump, 0.0)
    return {
        "distances": list(DISTANCES),
        "mismatch": [_numbers(row) for row in mismatch.T.numpy()],
        "jump": _numbers(jump.reshape(DIRECTIONS, -1).max(axis=0)),
        "growth": _numbers((last.constant / whole.numpy()).reshape(DIRECTIONS, -1).max(axis=0)),
    }


def _directions(seed: int, n_params: int) -> Tensor:
    """Unit vectors [D, P]."""
    rows = torch.randn(
        DIRECTIONS, n_params, generator=inputs.generator("switches", seed), dtype=torch.float64
    )
    return rows / rows.norm(dim=1, keepdim=True)


def _call(cell: Prepared, exact: Bilevel, theta: Vectors) -> Estimate:
    """The method at ``theta`` [times x T, P], ``times`` batches of the tasks below each other."""
    there = exact.repeat(len(theta) // len(exact.tasks)).at(theta)
    with torch.no_grad():
        return estimate(cell.method, there, usual(cell.problem, cell.method, len(theta)))


def _moved(cell: Prepared, exact: Bilevel, theta: Vectors) -> Vectors:
    return _call(cell, exact, theta).adapted - theta


def _query_loss(cell: Prepared, exact: Bilevel, theta: Vectors) -> Tensor:
    many = exact.repeat(len(theta) // len(exact.tasks))
    return many.outer_value(_call(cell, exact, theta).adapted)


def _numbers(values: NDArray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
