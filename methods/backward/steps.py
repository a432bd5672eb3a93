"""What `sweep` does once a step, there and back."""

import torch

from bench.api import Bilevel, Curvature, FirstOrderSolver, State, Vectors


def cast_all(dtype: torch.dtype, tensors: tuple) -> tuple:
    """Nested tuples of tensors in another dtype."""
    return tuple(cast_all(dtype, x) if isinstance(x, tuple) else x.to(dtype) for x in tensors)


def keeping(
    bilevel: Bilevel, solver: FirstOrderSolver, phi: Vectors, state: State, numbers: tuple[float, ...]
) -> tuple[Vectors, State, Vectors]:
    """A step, and its gradient."""
    grad = bilevel.inner_grad(phi)
    return *solver.update(phi, grad, state, *numbers), grad


def backward_step(
    bilevel: Bilevel,
    solver: FirstOrderSolver,
    phi: Vectors,
    state: State,
    kept: State,
    phi_bar: Vectors,
    state_bar: State,
    meta_bar: Vectors,
    numbers: tuple[float, ...],
    curvature: Curvature | None = None,
) -> tuple[Vectors, State, Vectors]:
    """The adjoints before a step from those after it; ``kept`` holds its gradient or nothing."""
    hvp = None if kept else bilevel.inner_hvp(phi)
    grad = kept[0] if hvp is None else hvp.gradient
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (phi, grad, *state)]
        new_phi, new_state = solver.update(leaves[0], leaves[1], tuple(leaves[2:]), *numbers)
        outputs, bars = (new_phi, *new_state), (phi_bar, *state_bar)
        phi_bar, grad_bar, *rest = torch.autograd.grad(outputs, leaves, bars, materialize_grads=True)
    if curvature is not None:
        product = curvature(bilevel, phi)(grad_bar)
    else:
        product = bilevel.inner_grad_and_hvp(phi, grad_bar)[1] if hvp is None else hvp(grad_bar)
    return phi_bar + product, tuple(rest), meta_bar + bilevel.cross(phi, grad_bar)
