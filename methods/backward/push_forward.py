import torch

from bench.api import Bilevel, FirstOrderSolver, State, Vectors


def push_forward(
    bilevel: Bilevel, solver: FirstOrderSolver, directions: list[Vectors]
) -> tuple[Vectors, list[Vectors]]:
    """Forward mode: the adapted parameters phi_K and (d phi_K / d theta) v for every direction v.

    The tangents go along with the inner steps: nothing is stored. Costs K gradients, and K products a
    direction.
    """
    start = bilevel.start
    phi, state = start, solver.init(start)
    tangents = [(v, _init_dot(solver, start, v)) for v in directions]
    for step in range(solver.steps):
        hvp = bilevel.inner_hvp(phi)
        new, rows = (phi, state), []
        for v, (phi_dot, state_dot) in zip(directions, tangents, strict=True):
            grad_dot = hvp(phi_dot) - bilevel.strength * v

            def update(phi, grad, *state, step: int = step):
                return solver.update(phi, grad, state, *solver.schedule(step))

            dots = (phi_dot, grad_dot, *state_dot)
            new, *moved = torch.func.jvp(update, (phi, hvp.gradient, *state), dots)
            rows += moved
        (phi, state), tangents = new, rows
    return phi, [phi_dot for phi_dot, _ in tangents]


def _init_dot(solver: FirstOrderSolver, start: Vectors, v: Vectors) -> State:
    """How the optimiser's first state moves with theta."""
    if not solver.init(start):
        return ()  # torch.func.jvp takes no function without outputs
    return torch.func.jvp(solver.init, (start,), (v,))[1]
