from functools import partial

import torch

from bench.api import Bilevel, Curvature, FirstOrderSolver, State, Vectors
from methods.backward.pull_back import pull_back_init
from methods.backward.steps import cast_all, keeping


def sweep(
    bilevel: Bilevel,
    solver: FirstOrderSolver,
    first: int = 0,
    from_start: bool = True,
    forward_over_reverse: bool = False,
    ahead: Bilevel | None = None,
    curvature: Curvature | None = None,
) -> tuple[Vectors, Vectors]:
    """The reverse sweep over the iterates from number ``first`` on; meta-gradient and adapted parameters.

    With phi_{k+1} = update(phi_k, g_k, state_k), g_k = grad G(phi_k, theta), and a bar for the adjoint:
    (phi_bar, g_bar, state_bar) = vjp of update; phi_bar += Hessian g_bar; theta_bar += cross g_bar.
    ``first`` > 0 takes phi_first and its state as constants: truncated back-propagation. ``from_start``
    False does so for phi_0 = theta too. ``ahead``, ``curvature``: see `adjoint`.
    """
    start, dtype = bilevel.start, bilevel.meta.dtype
    ahead = bilevel if ahead is None else ahead
    phi = start if ahead.meta.dtype == dtype else ahead.start
    state = solver.init(phi)
    keeps = forward_over_reverse or curvature is not None
    forward = ahead.fused(keeping if keeps else solver.advance, solver)
    path: list[tuple[Vectors, State, State]] = []
    for step in range(solver.steps):
        before = (phi, state)
        phi, state, *kept = forward(phi, state, solver.schedule(step))
        if step >= first:
            path.append((*before, tuple(kept)))
    if ahead.meta.dtype != dtype:
        (phi, state), path = cast_all(dtype, (phi, state)), [cast_all(dtype, before) for before in path]
    adapted, phi_bar = phi, bilevel.outer_grad(phi)
    state_bar = tuple(torch.zeros_like(s) for s in state)
    meta_bar = torch.zeros_like(start)
    backward = bilevel.fused(_backward, solver)
    if curvature is not None:
        backward = partial(_backward, bilevel, solver, curvature=curvature)
    for step in reversed(range(first, solver.steps)):
        bars = (phi_bar, state_bar, meta_bar)
        phi_bar, state_bar, meta_bar = backward(*path.pop(), *bars, solver.schedule(step))
    if first == 0 and from_start:
        meta_bar = meta_bar + phi_bar + pull_back_init(solver, start, state_bar)
    return meta_bar, adapted


def _backward(
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
    """The adjoints before an inner step from those after it; ``kept`` holds its gradient or nothing."""
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
