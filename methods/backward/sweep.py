from functools import partial

import torch

from bench.api import Bilevel, FirstOrderSolver, State, Vectors
from methods.backward.pull_back import pull_back_init


def sweep(
    bilevel: Bilevel,
    solver: FirstOrderSolver,
    first: int = 0,
    from_start: bool = True,
    forward_over_reverse: bool = False,
) -> tuple[Vectors, Vectors]:
    """The reverse sweep over the iterates from number ``first`` on; meta-gradient and adapted parameters.

    With phi_{k+1} = update(phi_k, g_k, state_k), g_k = grad G(phi_k, theta), and a bar for the adjoint:
    (phi_bar, g_bar, state_bar) = vjp of update; phi_bar += Hessian g_bar; theta_bar += cross g_bar.
    ``first`` > 0 takes phi_first and its state as constants: truncated back-propagation. ``from_start``
    False does so for phi_0 = theta too.
    """
    start = bilevel.start
    phi, state = start, solver.init(start)
    path: list[tuple[Vectors, Vectors | None, State]] = []
    for step in range(solver.steps):
        grad = bilevel.inner_grad(phi)
        if step >= first:
            path.append((phi, grad if forward_over_reverse else None, state))
        phi, state = solver.update(step, phi, grad, state)
    adapted, phi_bar = phi, bilevel.outer_grad(phi)
    state_bar = tuple(torch.zeros_like(s) for s in state)
    meta_bar = torch.zeros_like(start)
    for step in reversed(range(first, solver.steps)):
        phi, grad, state = path.pop()
        if grad is None:
            hvp = bilevel.inner_hvp(phi)
            grad = hvp.gradient
        else:
            hvp = partial(_forward_product, bilevel, phi)
        phi_bar, grad_bar, state_bar = _pull_back(solver, step, phi, grad, state, phi_bar, state_bar)
        phi_bar = phi_bar + hvp(grad_bar)
        del hvp  # its graph must not live while the next one is built
        meta_bar = meta_bar + bilevel.cross(phi, grad_bar)
    if first == 0 and from_start:
        meta_bar = meta_bar + phi_bar + pull_back_init(solver, start, state_bar)
    return meta_bar, adapted


def _forward_product(bilevel: Bilevel, phi: Vectors, v: Vectors) -> Vectors:
    return bilevel.inner_grad_and_hvp(phi, v)[1]


def _pull_back(
    solver: FirstOrderSolver,
    step: int,
    phi: Vectors,
    grad: Vectors,
    state: State,
    phi_bar: Vectors,
    state_bar: State,
) -> tuple[Vectors, Vectors, State]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (phi, grad, *state)]
        new_phi, new_state = solver.update(step, leaves[0], leaves[1], tuple(leaves[2:]))
        outputs, bars = (new_phi, *new_state), (phi_bar, *state_bar)
        phi_bar, grad_bar, *rest = torch.autograd.grad(outputs, leaves, bars, materialize_grads=True)
    return phi_bar, grad_bar, tuple(rest)
