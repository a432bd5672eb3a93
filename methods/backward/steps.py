"""What `sweep` needs on the way forward."""

import torch

from bench.api import Bilevel, FirstOrderSolver, State, Vectors


def cast_all(dtype: torch.dtype, tensors: tuple) -> tuple:
    """Nested tuples of tensors in another dtype."""
    return tuple(cast_all(dtype, x) if isinstance(x, tuple) else x.to(dtype) for x in tensors)


def keeping(
    bilevel: Bilevel, solver: FirstOrderSolver, phi: Vectors, state: State, numbers: tuple[float, ...]
) -> tuple[Vectors, State, Vectors]:
    """One inner step, and its gradient."""
    grad = bilevel.inner_grad(phi)
    return *solver.update(phi, grad, state, *numbers), grad
