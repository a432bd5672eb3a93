import math

import torch

from bench.api import Bilevel, FirstOrderSolver, State, Vectors
from methods.backward.pull_back import pull_back_init


def checkpointed(bilevel: Bilevel, solver: FirstOrderSolver) -> tuple[Vectors, Vectors]:
    """The unrolled graph in segments of sqrt(K) steps, each rebuilt from its stored first iterate.

    Returns the meta-gradient and the adapted parameters. Memory about sqrt(K) times the activations
    (Griewank and Walther 2000; Chen et al. 2016); costs 2 K gradients and K Hessian products.
    """
    length = max(1, math.isqrt(solver.steps))
    start = bilevel.start
    phi, state = start, solver.init(start)
    advance = bilevel.fused(solver.advance, solver)
    saved: list[tuple[int, Vectors, State]] = []
    for step in range(solver.steps):
        if step % length == 0:
            saved.append((step, phi, state))
        phi, state = advance(phi, state, solver.schedule(step))
    adapted, bars = phi, (bilevel.outer_grad(phi), *(torch.zeros_like(s) for s in state))
    meta_bar = torch.zeros_like(start)
    for first, phi_0, state_0 in reversed(saved):
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_() for x in (start, phi_0, *state_0)]
            here, phi, state = bilevel.at(leaves[0]), leaves[1], tuple(leaves[2:])
            for step in range(first, min(first + length, solver.steps)):
                phi, state = solver.advance(here, solver, phi, state, solver.schedule(step))
            meta_part, *bars = torch.autograd.grad((phi, *state), leaves, bars, materialize_grads=True)
        meta_bar = meta_bar + meta_part
    phi_bar, *state_bar = bars
    bilevel.calls.inner_hvps += solver.steps
    return meta_bar + phi_bar + pull_back_init(solver, start, tuple(state_bar)), adapted
