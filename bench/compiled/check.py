"""A compiled kernel against the same function in eager float64, before anybody relies on it."""

from collections.abc import Callable, Container, Sequence

import torch
from torch import Tensor

# How much further from float64 than eager mode's own rounding a kernel may be, and what is always forgiven.
FACTOR, FORGIVEN = 4.0, 256
MOST = 0.1  # whatever eager mode's own error: where that overflows, or in bfloat16, all else would pass
FORGIVEN_IN_DOUBLE = 1e-11  # there eager mode is the measure itself, and has no rounding to compare with
SPREAD = 0.1


def probe(inputs: Sequence[Tensor], as_they_are: Container[int] = ()) -> list[Tensor]:
    """Inputs like the given ones in general position: where phi = theta, a missing term would not be seen.

    Nothing becomes negative that was not: optimisers keep sums of squares. Inputs ``as_they_are``, by their
    numbers, do not move: the data of tasks are in no special position, and may be indices coded as floats.
    """
    generator = torch.Generator().manual_seed(0)
    scale = next((_rms(x) for x in inputs if x.is_floating_point() and x.ndim and _rms(x) > 0), 1.0)
    moved = []
    for i, x in enumerate(inputs):
        if i not in as_they_are and x.is_floating_point() and x.ndim:
            noise = torch.rand(x.shape, generator=generator, dtype=torch.float64).to(x.device)
            x = (x.double() + SPREAD * (_rms(x) or scale) * noise).to(x.dtype)
        moved.append(x)
    return moved


def errors(
    compiled: Sequence[Tensor],
    eager: Callable[[list[Tensor]], Sequence[Tensor]],
    inputs: list[Tensor],
) -> tuple[float, float]:
    """Of the ``compiled`` and the eager results at ``inputs``: the largest distance of a task from float64.

    Relative to the task's result in eager float64. A difference in booleans or integers counts as infinite.
    """
    theirs = eager(inputs)
    exact = eager([x.double() if x.is_floating_point() else x for x in inputs])
    pairs = list(zip(compiled, theirs, exact, strict=True))
    return max(_distance(a, c) for a, _, c in pairs), max(_distance(b, c) for _, b, c in pairs)


def acceptable(error: float, eager_error: float, dtype: torch.dtype) -> bool:
    """Whether a kernel with this error is as good as eager mode."""
    if dtype is torch.float64:
        return error <= FORGIVEN_IN_DOUBLE
    return error <= min(max(FACTOR * eager_error, FORGIVEN * torch.finfo(dtype).eps), MOST)


def _distance(value: Tensor, exact: Tensor) -> float:
    if value.shape != exact.shape:
        return float("inf")
    if not value.is_floating_point():
        return 0.0 if torch.equal(value, exact) else float("inf")
    value, exact = value.double().reshape(len(value), -1), exact.double().reshape(len(exact), -1)
    same = (value == exact) | (value.isnan() & exact.isnan())  # infinities too
    gap = torch.where(same, 0, value - exact).norm(dim=1)
    size = torch.where(exact.isfinite(), exact, 0).norm(dim=1)
    return float(torch.where(gap == 0, 0, gap / size).nan_to_num(torch.inf).max())  # NaN is as far as can be


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt()) if x.numel() else 0.0
