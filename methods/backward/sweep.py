from functools import partial

import torch

from bench.api import Bilevel, Curvature, FirstOrderSolver, State, Vectors
from methods.backward.pull_back import pull_back_init
from methods.backward.steps import backward_step, cast_all, keeping


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
    backward = bilevel.fused(backward_step, solver)
    if curvature is not None:
        backward = partial(backward_step, bilevel, solver, curvature=curvature)
    for step in reversed(range(first, solver.steps)):
        bars = (phi_bar, state_bar, meta_bar)
        phi_bar, state_bar, meta_bar = backward(*path.pop(), *bars, solver.schedule(step))
    if first == 0 and from_start:
        meta_bar = meta_bar + phi_bar + pull_back_init(solver, start, state_bar)
    return meta_bar, adapted
