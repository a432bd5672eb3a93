"""The exact result of a program between proven bounds: balls at as many bits as a given bound needs."""

import math
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb, ctx
from torch import Tensor

from bench.certified.arithmetic import Array, Balls
from bench.certified.play import Player, UndecidedAt
from bench.certified.program import Node, NotCertifiedError

FIRST_BITS, MOST_BITS = 192, 8192
BOUND = 1e-30  # radius over norm


@dataclass(frozen=True)
class Enclosure:
    """A vector of balls that holds the exact one, and what it took: ``seconds`` of arithmetic in all."""

    balls: Array
    bits: int
    nodes: int
    seconds: float

    @property
    def radius(self) -> float:
        """Norm of the radii over that of the vector, rounded up."""
        return ratio(radius(self.balls), norm(self.balls))[1]


def enclose(
    player: Player, inputs: Iterable[Tensor | Array], bound: float = BOUND, seconds: float = 60
) -> Enclosure:
    """The first output of a program for these inputs, with a radius of at most ``bound`` times its norm.

    The bits are raised until that holds and every comparison on the way is decided. Raises
    `NotCertifiedError` where `MOST_BITS` do not do, and with everything that `Player` finds.
    """
    inputs, bits, start = list(inputs), FIRST_BITS, time.monotonic()
    while True:
        with ctx.workprec(bits):
            try:
                (balls,) = player(Balls(), inputs, start + seconds)
                balls = balls.ravel()
                reached = ratio(radius(balls), norm(balls))[1]
                if reached <= bound or _is_zero(balls):
                    return Enclosure(balls, bits, len(player.program.nodes), time.monotonic() - start)
                undecided = None
            except UndecidedAt as error:
                undecided, reached = error, math.inf
            if bits >= MOST_BITS:
                raise _failure(player, inputs, undecided, reached, bits, start + seconds)
        bits = _next(bits, reached, bound)


def _next(bits: int, reached: float, bound: float) -> int:
    """What should do: radii shrink with the roundoff once they are small."""
    if reached < 1e-3:
        return min(MOST_BITS, bits + math.ceil(math.log2(reached / bound)) + 16)
    return min(MOST_BITS, 2 * bits)


def _failure(
    player: Player,
    inputs: list[Tensor | Array],
    undecided: UndecidedAt | None,
    reached: float,
    bits: int,
    until: float,
) -> NotCertifiedError:
    if undecided is not None and not undecided.lost:
        return NotCertifiedError("undecided kink", f"{undecided} {bits} bits do not tell")
    growth = _Growth()
    with suppress(UndecidedAt):
        player(Balls(), inputs, until, growth)
    where = f"; radii pass the size of the numbers first at {growth.first}" if growth.first else ""
    if undecided is not None:
        return NotCertifiedError("blown-up radius", f"{undecided}{where}; {bits} bits")
    return NotCertifiedError("blown-up radius", f"{reached:.1e} of the norm at {bits} bits{where}")


class _Growth:
    """Finds the first node whose results are wholly lost in their radii."""

    def __init__(self) -> None:
        self.first: Node | None = None

    def __call__(self, node: Node, results: list[Array]) -> None:
        if self.first is None:
            balls = [x for x in results if x.dtype == object and x.size]
            if any(not all(b.is_finite() for b in x.flat) or _lost(x) for x in balls):
                self.first = node


def _lost(x: Array) -> bool:
    return not _is_zero(x) and bool(radius(x) >= norm(x))


def _is_zero(balls: Array) -> bool:
    return all(b.is_zero() for b in balls.flat)


def norm(balls: Array) -> arb:
    """The norm of the midpoints, as a ball."""
    return _root(sum((b.mid() * b.mid() for b in balls.flat), arb(0)))


def radius(balls: Array) -> arb:
    """The norm of the radii."""
    return _root(sum((b.rad() * b.rad() for b in balls.flat), arb(0)))


def distance(a: Array, b: Array) -> tuple[arb, arb]:
    """Between which numbers the distance of two vectors lies that the balls hold."""
    gaps = (x.mid() - y.mid() for x, y in zip(a.flat, b.flat, strict=True))
    apart = _root(sum((gap * gap for gap in gaps), arb(0)))  # a gap is rounded, and so a ball
    unsure = radius(a) + radius(b)
    return (apart - unsure).lower().nonnegative_part(), (apart + unsure).upper()


def size(balls: Array) -> tuple[arb, arb]:
    """Between which numbers the norm of a vector lies."""
    return distance(balls, np.array([arb(0)] * balls.size, object))


def ratio(over: Any, under: Any) -> tuple[float, float]:
    """Lower and upper bound of a quotient of intervals (or balls) that are not negative, as floats."""
    (a, b), (c, d) = (x if isinstance(x, tuple) else (x.lower(), x.upper()) for x in (over, under))
    low = float((a / d).lower()) if d > 0 else 0.0
    high = float((b / c).upper()) if c > 0 else math.inf
    if math.isnan(high):
        high = math.inf
    return max(0.0, math.nextafter(low, -math.inf)), math.nextafter(high, math.inf)


def _root(square: arb) -> arb:
    return square.nonnegative_part().sqrt()
