"""The minimiser of G for one task, to rounding, and the Hessian of G there; or why there is none."""

from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.api import Bilevel, Vectors

DENSE_PARAMS = 500  # up to here P products, one eigendecomposition and no iteration
STATIONARY = 1e-10  # |grad G| at the solution over |grad G| at theta
NEWTON_STEPS = 30
STEP_LENGTHS = (1.0, 1 / 4, 1 / 16, 1 / 64, 1 / 256)
MAX_CALLS = 5_000  # gradients and products a task; fewer for large networks, where each takes longer
MAX_CALLS_TIMES_PARAMS = 1e8


class MissingError(Exception):
    """This task has no proper minimiser, or none was found; the message says why."""


class Oracle:
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
            raise MissingError("the inner gradient is not finite on the way to the solution")
        relative = size / self.scale if self.scale > 0 else size
        self.best = min(self.best, relative)
        return relative

    def spend(self) -> None:
        """Count one gradient or product."""
        self.calls += 1
        if self.calls > self.limit:
            raise MissingError(
                f"no solution within {self.limit} gradients and products: |grad G| fell to "
                f"{self.best:.1e} of its first value"
            )


def descend(oracle: Oracle) -> Vectors:
    """A point near the minimiser of G that lies downhill from theta."""
    bilevel, start = oracle.bilevel, oracle.bilevel.start
    if oracle.scale == 0:
        return start

    unit = float(bilevel.inner_value(start).abs()) or 1.0  # tolerances below are absolute ones
    phi = start.clone().requires_grad_()

    def value() -> Tensor:
        oracle.spend()
        with torch.enable_grad():
            value = bilevel.inner_value(phi).sum() / unit
            (phi.grad,) = torch.autograd.grad(value, phi)
        oracle.relative(unit * phi.grad)
        return value.detach()

    # Ends well before the decrease of G drowns in rounding, where no line search works: Newton does the rest.
    torch.optim.LBFGS(
        [phi],
        max_iter=oracle.limit,
        max_eval=oracle.limit,
        tolerance_grad=1e-6 * oracle.scale / unit / oracle.n_params**0.5,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    ).step(value)
    return phi.detach()


def polish(oracle: Oracle, phi: Vectors) -> tuple[Vectors, "Dense | Iterative"]:
    """Newton steps on grad G = 0, shortened until |grad G| falls; the solution and the Hessian of G there."""
    hessian = hessian_of(oracle, phi)
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
            hessian = hessian_of(oracle, phi)
        elif not met:  # the linearisation fails even over the shortest step
            raise MissingError(
                f"kink: the gradient of G jumps by {change:.1f} times its size within 1/256 of a Newton step "
                f"(as with ReLU); descent stops at {now:.1e} of the first |grad G|"
            )
        if met:
            return phi, hessian  # that one step more took the error from the goal to rounding
    raise MissingError(f"{NEWTON_STEPS} Newton steps only reach {hessian.relative:.1e} of the first |grad G|")


def hessian_of(oracle: Oracle, phi: Vectors) -> "Dense | Iterative":
    return Dense(oracle, phi) if oracle.n_params <= DENSE_PARAMS else Iterative(oracle, phi)


class Dense:
    """The Hessian of G at ``phi`` by its eigendecomposition."""

    def __init__(self, oracle: Oracle, phi: Vectors):
        product = oracle.bilevel.inner_hvp(phi)
        self.gradient = product.gradient
        self.relative = oracle.relative(self.gradient)
        matrix = torch.cat([product(row[None]) for row in torch.eye(phi.shape[1], dtype=phi.dtype)])
        if not torch.isfinite(matrix).all():
            raise MissingError("the Hessian of G is not finite")
        self._eigenvalues, self._eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)

    def smallest_eigenvalue(self) -> float:
        return float(self._eigenvalues[0])

    def solve(self, rhs: Vectors, tolerance: float) -> Vectors:
        return (rhs @ self._eigenvectors / self._eigenvalues) @ self._eigenvectors.T


class Iterative(scipy.sparse.linalg.LinearOperator):
    """The Hessian of G at ``phi`` by its products; a direction of negative curvature ends everything."""

    def __init__(self, oracle: Oracle, phi: Vectors):
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
            raise MissingError(
                f"indefinite: where descent ends, with |grad G| at {self.relative:.1e} of its first value, "
                f"the Hessian of G has curvature {v @ hv / (v @ v):.3g}"
            )
        return hv

    def smallest_eigenvalue(self) -> float:
        """By Lanczos from a fixed vector, to 1 %: its sign is what counts."""
        first = np.random.default_rng(0).standard_normal(self.shape[0])
        settings: Any = {"k": 1, "which": "SA", "v0": first, "ncv": 40, "tol": 1e-2}  # the stub has tol: int
        try:
            values = scipy.sparse.linalg.eigsh(self, return_eigenvectors=False, **settings)
        except scipy.sparse.linalg.ArpackError as error:
            raise MissingError(f"smallest eigenvalue of the Hessian of G not found: {error}") from error
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
        raise MissingError(f"linear system only solved to a relative residual of {reached:.1e}")
