"""The two true meta-gradients of a task between proven bounds, where that is feasible."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from flint import arb, arb_mat, ctx

from bench.api import Bilevel, FirstOrderSolver
from bench.certified.arithmetic import Array, Balls
from bench.certified.enclosure import Enclosure, enclose
from bench.certified.play import Player, UndecidedAt
from bench.certified.program import NotCertifiedError
from bench.certified.trace import trace
from bench.minimiser import MissingError, Oracle, descend, polish
from bench.reference import through_steps

MOST_PARAMS = 200  # P Hessian products in balls and two dense inverses
NEWTON_BITS = 320
NEWTON_STEPS = 12


@dataclass(frozen=True)
class Certified:
    """A vector of balls that holds a true meta-gradient, and how it was come by."""

    balls: Array
    how: str


def maml(bilevel: Bilevel, inner: FirstOrderSolver, bound: float, seconds: float) -> Certified:
    """The derivative through the steps of ``inner``; ``bilevel`` is of one task, in float64."""
    program = trace(lambda: [through_steps(bilevel, inner)], [], read(bilevel))
    found: Enclosure = enclose(Player(program), [], bound, seconds)
    return Certified(found.balls, f"the step-by-step reference's program in balls of {found.bits} bits")


def implicit(bilevel: Bilevel, seconds: float) -> Certified:
    """strength (Hessian of G)^-1 (query gradient) at the minimiser of G; one task, in float64.

    Newton's method in balls from the float64 minimiser, then Krawczyk's test: with X a box around the point
    phi, C near the inverse Hessian and H(X) a ball matrix that holds the Hessian at every point of X,

        -C grad G(phi) + (I - C H(X)) (X - phi)  inside  X - phi

    proves one and only one stationary point in X, and phi + the left side holds it (Krawczyk 1969). As the
    pivots of H(X) are positive, it is a minimum. Raises `NotCertifiedError` where a step fails.
    """
    n, until = bilevel.start.shape[1], time.monotonic() + seconds
    if n > MOST_PARAMS:
        raise NotCertifiedError("too large", f"{n} parameters; up to {MOST_PARAMS} are certified")
    point = _minimiser(bilevel)
    grad, query, hessian = (
        Player(trace(lambda phi, f=f: [f(phi)], [point.clone()], read(bilevel)))
        for f in (bilevel.inner_grad, bilevel.outer_grad, _rows(bilevel))
    )
    with ctx.workprec(NEWTON_BITS):
        try:
            return _verified(bilevel, point, grad, query, hessian, until)
        except UndecidedAt as error:
            raise NotCertifiedError("undecided kink", f"at the minimiser, {error}") from error


def _verified(
    bilevel: Bilevel, point: torch.Tensor, grad: Player, query: Player, hessian: Player, until: float
) -> Certified:
    balls, n = Balls(), point.shape[1]
    phi = balls.of(point.numpy())
    inverse = _matrix(hessian(balls, [phi], until)[0]).inv().mid()
    step = phi
    for _ in range(NEWTON_STEPS):
        step = inverse * _column(grad(balls, [phi], until)[0])
        phi = _mid(phi - _row(step))
        if _largest(step) <= _largest(_column(phi)) * arb(2) ** (40 - NEWTON_BITS):
            break
    step = inverse * _column(grad(balls, [phi], until)[0])
    reach = 2 * _largest(step) + arb(2) ** (-2 * NEWTON_BITS)
    box = arb_mat(n, 1, [arb(0, reach)] * n)
    around = np.array([[x + arb(0, reach) for x in phi.flat]], object)
    curved = _matrix(hessian(balls, [around], until)[0])
    identity = arb_mat(n, n, [arb(int(i == j)) for i in range(n) for j in range(n)])
    inside = (identity - inverse * curved) * box - step
    if not all(abs(x).upper() < reach for x in inside.entries()):
        raise NotCertifiedError("undecided kink", "Krawczyk's test finds no single stationary point")
    if not _positive(curved):
        raise NotCertifiedError("undecided kink", "the Hessian of G at the minimiser is not proven positive")
    slope = query(balls, [phi + _row(inside)], until)[0]
    solution = curved.solve(_column(slope))
    value = np.array([arb(bilevel.strength) * x for x in solution.entries()], object)
    return Certified(value, f"Newton in balls of {NEWTON_BITS} bits, Krawczyk's test, dense solve in balls")


def read(bilevel: Bilevel) -> list[torch.Tensor]:
    """The tensors that its oracles read."""
    t = bilevel.tasks
    return [bilevel.meta, t.support_x, t.support_y, t.query_x, t.query_y]


def _minimiser(bilevel: Bilevel) -> torch.Tensor:
    with torch.no_grad():
        closed = bilevel.inner_solution()
        try:
            oracle = Oracle(bilevel)
            return polish(oracle, descend(oracle) if closed is None else closed)[0].detach()
        except MissingError as error:
            raise NotCertifiedError("failed", str(error)) from error


def _rows(bilevel: Bilevel):
    """The map phi -> Hessian of G, by one batch of products."""

    def hessian(phi: torch.Tensor) -> torch.Tensor:
        n = phi.shape[1]
        return bilevel.repeat(n).inner_hvp(phi.repeat(n, 1))(torch.eye(n, dtype=phi.dtype))

    return hessian


def _matrix(x: Array) -> arb_mat:
    return arb_mat(x.shape[0], x.shape[1], x.ravel().tolist())


def _column(x: Array) -> arb_mat:
    return arb_mat(x.size, 1, x.ravel().tolist())


def _row(x: arb_mat) -> Array:
    return np.array([x.entries()], object)


def _mid(x: Array) -> Array:
    return np.array([[b.mid() for b in x.flat]], object)


def _largest(x: arb_mat) -> arb:
    found = arb(0)
    for entry in x.entries():
        found = found.max(entry.abs_upper())
    return found


def _positive(matrix: arb_mat) -> bool:
    """Whether every symmetric matrix that the balls hold is positive definite: by the pivots of L D L'."""
    rows = np.array(matrix.tolist(), object)
    for k in range(len(rows)):
        if not rows[k, k] > 0:
            return False
        rows[k + 1 :, k + 1 :] -= np.outer(rows[k + 1 :, k], rows[k, k + 1 :]) / rows[k, k]
    return True
