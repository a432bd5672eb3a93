"""The sizes and violations of all assumptions at points of a cell's inner path."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import inputs
from bench.api import Bilevel, Estimate, Vectors
from bench.assumptions.path import iterates
from bench.assumptions.pieces import piece
from bench.assumptions.quotients import KINK, quotient
from bench.assumptions.spectrum import Operator, extremes, nearest_to_zero
from bench.inputs import Prepared
from bench.spec import PATH_POINTS

QUOTIENTS = ("outer_lipschitz", "outer_smooth", "inner_smooth", "hessian_lipschitz")
ASSUMPTIONS = (*QUOTIENTS, "one_piece", "strongly_convex", "stationary", "invertible", "curvature")
DIRECTIONS = 2
STATIONARY = 1e-2
SHORTEST = 1e-6  # of a random segment, to the size of phi

Row = dict[str, float | None]  # the sizes of one task at one point


def observe(
    cell: Prepared,
    exact: Bilevel,
    estimate: Estimate,
    points: int = PATH_POINTS,
    directions: int = DIRECTIONS,
) -> dict[str, Any]:
    """``sizes`` and ``violated``, ``{name: a list over tasks of lists over points}``; None: no answer.

    ``exact`` is the cell's problem in float64 on the CPU, ``estimate`` what its method returned. ``steps``
    are the points' numbers of inner steps. Sizes: ``smallest`` and ``largest`` eigenvalue of the Hessian of
    G, ``condition`` of I + H / lambda (a lower bound where that is indefinite), ``stationarity`` |grad G| to
    that at theta, ``decisions`` and the share of them that switch in the step, ``flips``; the smallest
    ``curvature`` p'Ap / p'p of the linear solve; of each quotient q the smallest ``q.slope`` and largest
    ``q.constant`` of the segments, and ``q.jump``, the largest of those that violate q, to the size of what
    jumps.

    Costs for each point, task and segment about 20 times two gradients, one value and one product, for each
    point and task some hundred products more, and two calls of the method.
    """
    chosen, path = iterates(cell, estimate.adapted, points)
    first = exact.inner_grad(exact.start).norm(dim=1)
    rows = [_at(_Point.of(path, k, chosen[-1]), cell, exact, first, directions) for k in chosen]
    for row, curvature in zip(rows[-1], _curvature(estimate, len(exact.tasks)), strict=True):
        row["curvature"] = curvature
    known = [[_violated(row, cell) for row in tasks] for tasks in rows]
    names = dict.fromkeys(name for tasks in rows for row in tasks for name in row)
    return {
        "steps": chosen,
        "sizes": {name: _by_task(rows, name) for name in names},
        "violated": {name: _by_task(known, name) for name in ASSUMPTIONS},
    }


@dataclass(frozen=True)
class _Point:
    """Iterate ``number`` ``phi``, and the inner step ``start`` to ``end`` at it; all [T, P]."""

    number: int
    is_last: bool
    phi: Vectors
    start: Vectors
    end: Vectors

    @classmethod
    def of(cls, path: dict[int, Vectors], k: int, last: int) -> "_Point":
        first = k - (k == last)
        return cls(k, k == last, path[k], path[first], path[first + 1])


def _by_task(rows: list[list[dict[str, Any]]], name: str) -> list[list[Any]]:
    return [[row.get(name) for row in points] for points in zip(*rows, strict=True)]


def _curvature(estimate: Estimate, n_tasks: int) -> list[float | None]:
    found = estimate.stats.get("linear_smallest_curvature")
    return [None] * n_tasks if found is None else [_number(value) for value in found.tolist()]


def _violated(row: Row, cell: Prepared) -> dict[str, bool | None]:
    """Which assumptions the sizes of a task at a point violate."""
    roundoff = torch.finfo(cell.meta.dtype).eps
    rules: dict[str, tuple[str, Callable[[float], bool]]] = {
        "one_piece": ("flips", lambda share: share > 0),
        "strongly_convex": ("smallest", lambda value: value <= 0),
        "invertible": ("condition", lambda value: value * roundoff >= 1),
        "curvature": ("curvature", lambda value: value <= 0),
        "stationary": ("stationarity", lambda value: value > STATIONARY),
    }
    rules |= {name: (f"{name}.slope", lambda slope: slope < KINK) for name in QUOTIENTS}
    if "condition" not in row:  # no last point
        del rules["stationary"]
    sizes = {name: row.get(size) for name, (size, _) in rules.items()}
    return {name: None if size is None else rules[name][1](size) for name, size in sizes.items()}


def _at(point: _Point, cell: Prepared, exact: Bilevel, first: Tensor, directions: int) -> list[Row]:
    """The sizes of every task at one point; none for a task whose iterates there are not finite."""
    fine = torch.stack([torch.isfinite(x).all(dim=1) for x in (point.phi, point.start, point.end)]).all(dim=0)
    which = fine.nonzero().flatten().tolist()
    rows: list[Row] = [{} for _ in range(len(fine))]
    if not which:
        return rows
    some, phi = exact.take(which), point.phi[which]
    generators = [inputs.generator("assumptions", cell.seeds[task], point.number) for task in which]
    grads = some.inner_grad(phi).norm(dim=1) / torch.where(first > 0, first, 1)[which]
    for i, task in enumerate(which):
        rows[task]["stationarity"] = _number(grads[i])
        rows[task] |= _spectrum(some.one(i), phi[i : i + 1], _random(generators[i], 1, phi)[0], point.is_last)
        rows[task] |= _flips(some, i, point.start[which[i]], point.end[which[i]])
    segments = [_segments(point, task, g, directions) for task, g in zip(which, generators, strict=True)]
    starts, ends = (torch.stack(x, dim=1).flatten(0, 1) for x in zip(*segments, strict=True))
    aside = torch.cat([_random(g, 1, phi) for g in generators]).repeat(directions + 1, 1)
    largest = torch.tensor([_largest(rows[task]) for task in which], dtype=phi.dtype)
    for name, found in _quotients(some, starts, ends, aside, largest).items():
        for i, task in enumerate(which):
            rows[task] |= {f"{name}.{key}": _number(value[i]) for key, value in found.items()}
    return rows


def _spectrum(one: Bilevel, phi: Vectors, first: Tensor, is_last: bool) -> Row:
    """Ends of the spectrum of the Hessian of G and, at the last point, the condition of I + H / lambda."""
    operator = Operator(one.inner_hvp(phi), phi.shape[1])
    ends = extremes(operator, first.numpy())
    if ends is None:
        return {"condition": None} if is_last else {}
    low, high = ends
    row: Row = {"smallest": low, "largest": high}
    if is_last:
        near = low if low > 0 else -high if high < 0 else nearest_to_zero(operator, first.numpy())
        size = max(abs(low), abs(high))
        row["condition"] = size / near if near > 0 else 1 / torch.finfo(phi.dtype).eps
    return row


def _largest(row: Row) -> float:
    return max(abs(row.get("smallest") or 0.0), abs(row.get("largest") or 0.0))


def _flips(some: Bilevel, task: int, start: Tensor, end: Tensor) -> Row:
    x, y = some.tasks.support_x[task], some.tasks.support_y[task]
    here, there = (piece(lambda p=p: some.problem.support_loss(p, x, y)) for p in (start, end))
    if len(here) != len(there):
        return {"decisions": None, "flips": 1.0}  # another branch of the program
    flips = float((here != there).double().mean()) if len(here) else 0.0
    return {"decisions": float(len(here)), "flips": flips}


def _segments(point: _Point, task: int, generator: torch.Generator, directions: int) -> tuple[Tensor, Tensor]:
    """Starts and ends [1 + directions, P]: the inner step, and random segments of its length around phi."""
    phi, start, end = (x[task : task + 1] for x in (point.phi, point.start, point.end))
    length = max(float((end - start).norm()), SHORTEST * max(float(phi.norm()), 1.0))
    half = 0.5 * length * _random(generator, directions + 1, phi)
    starts, ends = phi - half, phi + half
    if not torch.equal(start, end):
        starts[:1], ends[:1] = start, end
    return starts, ends


def _random(generator: torch.Generator, n: int, like: Vectors) -> Vectors:
    """Unit vectors [n, P], uniform."""
    rows = torch.randn(n, like.shape[1], generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def _quotients(
    some: Bilevel, starts: Vectors, ends: Vectors, aside: Vectors, largest: Tensor
) -> dict[str, dict[str, NDArray]]:
    """Of each quotient, [T]: the smallest slope, the largest constant, the largest jump; NaN: not known."""
    segments = len(starts) // len(some.tasks)
    many = some.repeat(segments)
    pull = some.strength * (starts - many.start).norm(dim=1)
    functions: dict[str, tuple[Callable[[Vectors], Vectors], Tensor | None]] = {
        "outer_lipschitz": (lambda z: many.outer_value(z)[:, None], None),
        "outer_smooth": (many.outer_grad, None),
        "inner_smooth": (many.inner_grad, pull),
        "hessian_lipschitz": (lambda z: many.inner_hvp(z)(aside), largest.repeat(segments)),
    }
    found = {}
    for name, (function, size) in functions.items():
        slope, constant, jump = (x.reshape(segments, -1) for x in quotient(function, starts, ends, size))
        known = np.isfinite(constant).all(axis=0)
        slope = np.where(np.isnan(slope), 0.0, slope)
        jump = np.where(slope < KINK, jump, 0.0)
        rows = {"slope": slope.min(axis=0), "constant": constant.max(axis=0), "jump": jump.max(axis=0)}
        found[name] = {key: np.where(known, row, np.nan) for key, row in rows.items()}
    return found


def _number(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
