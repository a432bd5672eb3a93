"""Difference quotients over a segment that is halved again and again towards its steeper half.

The quotient |f(b) - f(a)| / |b - a| of a function that is Lipschitz on the segment converges to a local
constant. Where f jumps, the jump is in one of the halves every time: the difference stays, and the quotient
grows as 1 / distance. The rule: f is not Lipschitz on a segment if the slope of log quotient against log
distance, fitted over the last 3 decades of distance above the rounding floor, is below -1/2. The floor is a
difference of 1e4 roundoffs of f's size, or a distance of 1e4 roundoffs of the point's. An infinite slope
without a jump may slip out of the halves.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.api import PerTask, Vectors

HALVINGS = 18  # 5 decades
DECADES = 3.0
KINK = -0.5  # the slope
FLOOR = 1e4 * torch.finfo(torch.float64).eps


class Quotient(NamedTuple):
    """Of each segment [N]. ``slope`` as above, NaN where less than 3 decades are above the floor.

    ``constant``: the quotient at the smallest distance; ``jump``: the difference there, relative to the
    larger |f| of both ends.
    """

    slope: NDArray
    constant: NDArray
    jump: NDArray


def quotient(
    function: Callable[[Vectors], Vectors], start: Vectors, end: Vectors, size: PerTask | None = None
) -> Quotient:
    """The last quotients of ``function`` on the segments from ``start`` to ``end`` [N, P], in float64.

    ``function`` returns [N, M]; its size, for the floor, is the larger norm of both ends and at least
    ``size`` [N]. Costs `HALVINGS` + 2 calls.
    """
    a, b = start, end
    fa, fb = function(a), function(b)
    scale = torch.maximum(fa.norm(dim=1), fb.norm(dim=1))
    floor = FLOOR * (scale if size is None else torch.maximum(scale, size))
    shortest = FLOOR * torch.maximum(a.norm(dim=1), b.norm(dim=1))
    distances, differences = [], []
    for halving in range(HALVINGS + 1):
        distances.append((b - a).norm(dim=1))
        differences.append((fb - fa).norm(dim=1))
        if halving == HALVINGS:
            break
        middle = (a + b) / 2
        fm = function(middle)
        left = ((fm - fa).norm(dim=1) >= (fb - fm).norm(dim=1))[:, None]
        a, fa = torch.where(left, a, middle), torch.where(left, fa, fm)
        b, fb = torch.where(left, middle, b), torch.where(left, fm, fb)
    distance, difference = torch.stack(distances, dim=1), torch.stack(differences, dim=1)
    fine = (difference > floor[:, None]) & (distance > shortest[:, None]) & torch.isfinite(difference)
    fine = fine.int().cumprod(dim=1).bool()
    rows = zip(distance.numpy(), difference.numpy(), fine.numpy(), scale.numpy(), strict=True)
    return Quotient(*(np.array(column) for column in zip(*(_last(*row) for row in rows), strict=True)))


def _last(distance: NDArray, difference: NDArray, fine: NDArray, scale: float) -> tuple[float, float, float]:
    """Slope, constant and jump of one segment."""
    if not fine.any():
        return np.nan, 0.0, 0.0
    distance, difference = distance[fine], difference[fine]
    constant, jump = difference[-1] / distance[-1], difference[-1] / scale if scale > 0 else np.nan
    used = distance <= 1.01 * 10**DECADES * distance[-1]
    if distance[0] < 10**DECADES * distance[-1]:
        return np.nan, constant, jump
    x, y = np.log(distance[used]), np.log(difference[used] / distance[used])
    return float(np.polyfit(x, y, 1)[0]), constant, jump
