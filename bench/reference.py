"""The two true meta-gradients, in float64 and independent of the methods that are measured against them.

``maml``: the derivative through the K steps of a first-order inner solver. ``implicit``: at the minimiser of
G, strength * (Hessian of G)^-1 * (gradient of the query loss). Both say per task why there is none.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.api import FirstOrderSolver, InnerSolver, State, Vectors
from bench.bilevel import Bilevel

MAX_ITERATE_BYTES = 4 * 2**30
MAX_PARAMS = 200_000  # an inner problem solved to rounding takes minutes a task here, and hours beyond
DENSE_PARAMS = 500  # up to here P products, one eigendecomposition and no iteration
STATIONARY = 1e-10  # |grad G| at the solution over |grad G| at theta
LINEAR_RESIDUAL = 1e-12
NEWTON_STEPS = 30
STEP_LENGTHS = (1.0, 1 / 4, 1 / 16, 1 / 64, 1 / 256)
MAX_CALLS = 5_000  # gradients and products a task; fewer for large networks, where each takes longer
MAX_CALLS_TIMES_PARAMS = 1e8


@dataclass(frozen=True)
class Reference:
    """A true meta-gradient: ``value`` [T, P] in float64, NaN in the rows of the tasks in ``missing``.

    ``how`` says how it was computed, ``missing`` why there is none: task number -> reason.
    """

    how: str
    value: Vectors
    missing: dict[int, str]


class _MissingError(Exception):
    """There is no reference for this task; the message says why."""


def absent(bilevel: Bilevel, how: str, reason: str) -> Reference:
    """A reference that no task has, for one reason."""
    value = torch.full_like(bilevel.start, torch.nan)
    return Reference(how, value, dict.fromkeys(range(len(bilevel.tasks)), reason))


def maml_reference(bilevel: Bilevel, inner: InnerSolver) -> Reference:
    """The exact gradient through the K steps that ``inner`` takes from theta; ``bilevel`` is in float64.

    A reverse sweep over the stored iterates: each step, with the inner gradient in it, is recomputed under
    autograd as one function of iterate, optimiser state and theta, and pulled back as a whole.
    """
    how = "float64, step by step"
    if not isinstance(inner, FirstOrderSolver) or type(inner).__call__ is not FirstOrderSolver.__call__:
        return absent(
            bilevel, how, f"{type(inner).__name__} is no sequence of differentiable first-order steps"
        )
    start = bilevel.start
    with torch.no_grad():
        needed = inner.steps * start.nbytes * (1 + len(inner.init(start)))
    if needed > MAX_ITERATE_BYTES:
        return absent(bilevel, how, f"too large: {inner.steps} stored iterates take {needed / 2**30:.0f} GiB")
    if bilevel.problem.batching == "loop":  # one task's graph alive at a time
        value = torch.cat([_maml(bilevel.one(task), inner) for task in range(len(bilevel.tasks))])
    else:
        value = _maml(bilevel, inner)
    missing = {}
    for task, finite in enumerate(torch.isfinite(value).all(dim=1).tolist()):
        if not finite:
            missing[task] = f"the {inner.steps} inner steps overflow in float64 too"
            value[task] = torch.nan
    return Reference(how, value, missing)


def _maml(bilevel: Bilevel, inner: FirstOrderSolver) -> Vectors:
    theta = bilevel.start.detach().clone()
    with torch.no_grad():
        phi, state = theta, inner.init(theta)
        iterates: list[tuple[Tensor, State]] = []
        for step in range(inner.steps):
            iterates.append((phi, state))
            phi, state = inner.update(step, phi, bilevel.inner_grad(phi), state)
        phi_bar, state_bar = bilevel.outer_grad(phi), tuple(torch.zeros_like(s) for s in state)
    theta_bar = torch.zeros_like(theta)
    with torch.enable_grad():
        for step in reversed(range(inner.steps)):
            phi, state = iterates.pop()
            phi, meta, *leaves = (x.detach().clone().requires_grad_() for x in (phi, theta, *state))
            new_phi, new_state = inner.update(step, phi, bilevel.at(meta).inner_grad(phi), tuple(leaves))
            bars = _pull_back((new_phi, *new_state), (phi_bar, *state_bar), (phi, meta, *leaves))
            phi_bar, state_bar = bars[0], bars[2:]
            theta_bar += bars[1]
        leaf = theta.clone().requires_grad_()
        (state_part,) = _pull_back(inner.init(leaf), state_bar, (leaf,))
    return theta_bar + phi_bar + state_part


def _pull_back(outputs: State, bars: State, inputs: State) -> State:
    """The sum over outputs of (d output / d input)^T bar, for every input."""
    pairs = [(out, bar) for out, bar in zip(outputs, bars, strict=True) if out.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(x) for x in inputs)
    outs, bars = zip(*pairs, strict=True)
    return torch.autograd.grad(outs, inputs, bars, materialize_grads=True)


def implicit_reference(bilevel: Bilevel) -> Reference:
    """strength * (Hessian of G)^-1 * (query gradient) at the minimiser of G; ``bilevel`` is in float64.

    The minimiser is the problem's closed form or the one that L-BFGS finds from theta, polished by Newton
    steps until |grad G| stops falling. A task has no reference where that ends above `STATIONARY` of
    |grad G(theta)|, where the Hessian there is not positive definite, or where the work exceeds its limit.
    """
    n_params = bilevel.start.shape[1]
    dense = n_params <= DENSE_PARAMS
    if n_params > MAX_PARAMS:
        reason = f"too large: {n_params} parameters, the limit is {MAX_PARAMS}"
        return absent(bilevel, "minimiser and linear solve", reason)
    with torch.no_grad():
        closed = bilevel.inner_solution()
    how = "closed-form minimiser" if closed is not None else "L-BFGS from theta"
    how += f", Newton to {STATIONARY:g} of the first gradient, "
    how += "dense solve" if dense else f"conjugate gradient to {LINEAR_RESIDUAL:g}"
    value, missing = torch.full_like(bilevel.start, torch.nan), {}
    for task in range(len(bilevel.tasks)):
        try:
            with torch.no_grad():
                first = None if closed is None else closed[task : task + 1]
                value[task] = _implicit(_Oracle(bilevel.one(task)), first)
        except _MissingError as error:
            missing[task] = str(error)
    return Reference(how, value, missing)


def _implicit(oracle: "_Oracle", closed: Vectors | None) -> Vectors:
    bilevel = oracle.bilevel
    phi = _descend(oracle) if closed is None else closed
    phi, hessian = _polish(oracle, phi)
    smallest = hessian.smallest_eigenvalue()
    if smallest <= 0:
        raise _MissingError(
            f"indefinite: smallest eigenvalue {smallest:.3g} of the Hessian of G at the solution"
        )
    x = hessian.solve(bilevel.outer_grad(phi), LINEAR_RESIDUAL)
    return -bilevel.cross(phi, x)


class _Oracle:
    """G of one task, with a limit on the work spent on it."""

    def __init__(self, bilevel: Bilevel):
        self.bilevel = bilevel
        self.n_params = bilevel.start.shape[1]
        self.limit = int(min(MAX_CALLS, MAX_CALLS_TIMES_PARAMS / self.n_params))
        self.calls = 0
        self.best = 1.0  # relative stationarity reached
        self.scale = float(bilevel.inner_grad(bilevel.start).norm())

    def relative(self, grad: Tensor) -> float:
        """|grad G| over that at theta."""
        size = float(grad.norm())
        if not np.isfinite(size):
            raise _MissingError("the inner gradient is not finite on the way to the solution")
        relative = size / self.scale if self.scale > 0 else size
        self.best = min(self.best, relative)
        return relative

    def spend(self) -> None:
        """Count one gradient or product."""
        self.calls += 1
        if self.calls > self.limit:
            raise _MissingError(
                f"no solution within {self.limit} gradients and products: |grad G| fell to "
                f"{self.best:.1e} of its first value"
            )


def _descend(oracle: _Oracle) -> Vectors:
    """A point near the minimiser of G that lies downhill from theta."""
    bilevel, start = oracle.bilevel, oracle.bilevel.start
    if oracle.scale == 0:
        return start

    def value_and_grad(x: NDArray) -> tuple[float, NDArray]:
        oracle.spend()
        with torch.enable_grad():
            phi = torch.tensor(x)[None].requires_grad_()
            value = bilevel.inner_value(phi)
            (grad,) = torch.autograd.grad(value, phi)
        oracle.relative(grad)
        return float(value.detach()), grad[0].numpy()

    # Below about 1e-7 the decrease of G drowns in its rounding, and a line search on G cannot work.
    near = 1e-6 * oracle.scale / oracle.n_params**0.5
    limits = {"ftol": 1e-13, "gtol": near, "maxcor": 20, "maxiter": oracle.limit, "maxfun": oracle.limit}
    found = scipy.optimize.minimize(
        value_and_grad, start[0].numpy().copy(), jac=True, method="L-BFGS-B", options=limits
    )
    return torch.from_numpy(found.x)[None]


def _polish(oracle: _Oracle, phi: Vectors) -> tuple[Vectors, "_Dense | _Iterative"]:
    """Newton steps on grad G = 0, shortened until |grad G| falls; the solution and the Hessian of G there."""
    hessian = _hessian(oracle, phi)
    for _ in range(NEWTON_STEPS):
        now = hessian.relative
        if now == 0:
            return phi, hessian
        met = now <= STATIONARY
        direction = hessian.solve(-hessian.gradient, 1e-4)
        candidate, fell, change = phi, False, 0.0
        for length in (1.0,) if met else STEP_LENGTHS:
            candidate = phi + length * direction
            oracle.spend()
            grad = oracle.bilevel.inner_grad(candidate)
            fell = oracle.relative(grad) < now
            if fell:
                break
            change = float((grad - (1 - length) * hessian.gradient).norm() / hessian.gradient.norm())
        if fell:
            phi = candidate
            hessian = _hessian(oracle, phi)
        elif not met:  # the linearisation fails even over the shortest step
            raise _MissingError(
                f"kink: the gradient of G jumps by {change:.1f} times its size within 1/256 of a Newton step "
                f"(as with ReLU); descent stops at {now:.1e} of the first |grad G|"
            )
        if met:
            return phi, hessian  # that one step more took the error from the goal to rounding
    raise _MissingError(
        f"{NEWTON_STEPS} Newton steps only reach {hessian.relative:.1e} of the first |grad G|"
    )


def _hessian(oracle: _Oracle, phi: Vectors) -> "_Dense | _Iterative":
    return _Dense(oracle, phi) if oracle.n_params <= DENSE_PARAMS else _Iterative(oracle, phi)


class _Dense:
    """The Hessian of G at ``phi`` by its eigendecomposition."""

    def __init__(self, oracle: _Oracle, phi: Vectors):
        product = oracle.bilevel.inner_hvp(phi)
        self.gradient = product.gradient
        self.relative = oracle.relative(self.gradient)
        matrix = torch.cat([product(row[None]) for row in torch.eye(phi.shape[1], dtype=phi.dtype)])
        if not torch.isfinite(matrix).all():
            raise _MissingError("the Hessian of G is not finite")
        self._eigenvalues, self._eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)

    def smallest_eigenvalue(self) -> float:
        return float(self._eigenvalues[0])

    def solve(self, rhs: Vectors, tolerance: float) -> Vectors:
        return (rhs @ self._eigenvectors / self._eigenvalues) @ self._eigenvectors.T


class _Iterative(scipy.sparse.linalg.LinearOperator):
    """The Hessian of G at ``phi`` by its products; a direction of negative curvature ends everything."""

    def __init__(self, oracle: _Oracle, phi: Vectors):
        super().__init__(np.float64, (oracle.n_params, oracle.n_params))
        self._oracle = oracle
        self._product = oracle.bilevel.inner_hvp(phi)
        self.gradient = self._product.gradient
        self.relative = oracle.relative(self.gradient)

    def _matvec(self, x: NDArray) -> NDArray:
        self._oracle.spend()
        v = x.ravel()
        hv = self._product(torch.tensor(v)[None])[0].numpy()
        if v @ hv <= 0 < v @ v:
            raise _MissingError(
                f"indefinite: the Hessian of G has curvature {v @ hv / (v @ v):.3g} where |grad G| is "
                f"{self.relative:.1e} of its first value"
            )
        return hv

    def smallest_eigenvalue(self) -> float:
        """By Lanczos from a fixed vector, to 1 %: its sign is what counts."""
        first = np.random.default_rng(0).standard_normal(self.shape[0])
        settings: Any = {"k": 1, "which": "SA", "v0": first, "ncv": 40, "tol": 1e-2}  # the stub has tol: int
        try:
            values = scipy.sparse.linalg.eigsh(self, return_eigenvectors=False, **settings)
        except scipy.sparse.linalg.ArpackError as error:
            raise _MissingError(f"smallest eigenvalue of the Hessian of G not found: {error}") from error
        return float(values[0])

    def solve(self, rhs: Vectors, tolerance: float) -> Vectors:
        """Conjugate gradient, again on the true residual until that meets the tolerance."""
        b = rhs[0].numpy()
        x, residual, goal = np.zeros_like(b), b, tolerance * float(np.linalg.norm(b))
        for _ in range(4):
            step, _ = scipy.sparse.linalg.cg(self, residual, rtol=0.0, atol=goal / 2, maxiter=10 * len(b))
            x = x + step
            residual = b - self._matvec(x)
            if np.linalg.norm(residual) <= goal:
                return torch.from_numpy(x)[None]
        reached = tolerance * float(np.linalg.norm(residual)) / goal
        raise _MissingError(f"linear system only solved to a relative residual of {reached:.1e}")
