"""The ends of the Hessian's spectrum, and its eigenvalue nearest to zero, from products alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse.linalg
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

from bench.api import Vectors

VECTORS = 40  # of Lanczos; up to so many parameters the matrix itself is no dearer
TOLERANCE = 1e-4  # of an eigenvalue, relative
RESTARTS = 60
INVERSE_STEPS = 2  # of inverse iteration
MINRES_PRODUCTS = 300  # a step


class Operator(LinearOperator):
    """The Hessian of G of one task at a point; ``product`` maps [1, P] to [1, P]."""

    def __init__(self, product: Callable[[Vectors], Vectors], n_params: int):
        super().__init__(np.float64, (n_params, n_params))
        self._product = product

    def _matvec(self, x: NDArray) -> NDArray:
        return self._product(torch.tensor(x.ravel())[None])[0].numpy()


def extremes(operator: LinearOperator, first: NDArray) -> tuple[float, float] | None:
    """Smallest and largest eigenvalue by Lanczos from the vector ``first`` [P]; None if it does not converge.

    To 1e-4 of themselves (`scipy.sparse.linalg.eigsh`). Ritz values lie inside the spectrum: a negative one
    proves indefiniteness.
    """
    n = operator.shape[0]
    if n <= VECTORS:
        values = np.linalg.eigvalsh(_matrix(operator))
        return float(values[0]), float(values[-1])
    settings: Any = {"k": 2, "which": "BE", "v0": first, "ncv": VECTORS, "tol": TOLERANCE}  # the stub: int
    try:
        values = scipy.sparse.linalg.eigsh(operator, maxiter=RESTARTS, return_eigenvectors=False, **settings)
    except scipy.sparse.linalg.ArpackError:
        return None
    return float(np.min(values)), float(np.max(values))


def nearest_to_zero(operator: LinearOperator, first: NDArray) -> float:
    """An upper bound of the smallest |eigenvalue| of an indefinite operator: |A x| / |x|.

    x is `INVERSE_STEPS` of inverse iteration from ``first``, each by `MINRES_PRODUCTS` of MINRES at most.
    """
    n = operator.shape[0]
    if n <= VECTORS:
        return float(np.abs(np.linalg.eigvalsh(_matrix(operator))).min())
    x, found = first / np.linalg.norm(first), np.inf
    for _ in range(INVERSE_STEPS):
        x, _ = scipy.sparse.linalg.minres(operator, x, rtol=1e-8, maxiter=MINRES_PRODUCTS)
        size = np.linalg.norm(x)
        if not 0 < size < np.inf:
            break
        x = x / size
        found = min(found, float(np.linalg.norm(operator.matvec(x))))
    return found


def _matrix(operator: LinearOperator) -> NDArray:
    matrix = np.stack([operator.matvec(row) for row in np.eye(operator.shape[0])])
    return (matrix + matrix.T) / 2
