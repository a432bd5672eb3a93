import torch

from bench.api import Bilevel, FirstOrderSolver, State, Vectors
from methods.backward.pull_back import pull_back_init


def adjoint(bilevel: Bilevel, solver: FirstOrderSolver) -> tuple[Vectors, Vectors]:
    """Reverse sweep over the stored iterates: one Hessian product a step, no graph across steps.

    With phi_{k+1} = update(phi_k, g_k, state_k), g_k = grad G(phi_k, theta), and a bar for the adjoint:
    (phi_bar, g_bar, state_bar) = vjp of update; phi_bar += Hessian g_bar; theta_bar += cross g_bar.
    Returns the meta-gradient and the adapted parameters. Memory K times (parameters + optimiser state);
    costs 2 K gradients (forward, and again in the linearisation) and K products.
    """
    start = bilevel.start
    phi, state = start, solver.init(start)
    path: list[tuple[Vectors, State]] = []
    for step in range(solver.steps):
        path.append((phi, state))
        phi, state = solver.update(step, phi, bilevel.inner_grad(phi), state)
    adapted, phi_bar = phi, bilevel.outer_grad(phi)
    state_bar = tuple(torch.zeros_like(s) for s in state)
    meta_bar = torch.zeros_like(start)
    for step in reversed(range(solver.steps)):
        phi, state = path.pop()
        hvp = bilevel.inner_hvp(phi)
        phi_bar, grad_bar, state_bar = _pull_back(solver, step, phi, hvp.gradient, state, phi_bar, state_bar)
        phi_bar = phi_bar + hvp(grad_bar)
        meta_bar = meta_bar + bilevel.cross(phi, grad_bar)
        del hvp  # its graph must not live while the next one is built
    return meta_bar + phi_bar + pull_back_init(solver, start, state_bar), adapted


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
