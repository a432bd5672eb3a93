from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bench.api import (
    Bilevel,
    Counts,
    Estimate,
    FirstOrderSolver,
    InnerSolver,
    Method,
    State,
    Target,
    Vectors,
    require,
)
from bench.registry import register
from methods.backward import first_order
from methods.inner import GradientDescent


@register("method", "forward-gradient")
@dataclass(frozen=True)
class ForwardGradient(Method):
    """Forward-gradient unrolling ((FG)^2U, Shen et al. 2024): exact MAML along random directions.

    meta_grad = mean over directions v of (d query_loss(phi_K(theta + t v)) / dt) v, v = +-1 in every
    parameter: unbiased for exact MAML, with a variance of (P - 1) / ``directions`` times its squared length.
    The tangents of phi go forward with the inner steps: nothing is stored, memory does not grow with K.
    Costs K gradients, K products for each direction, and one query gradient.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    directions: int = 10
    stochastic: ClassVar[bool] = True
    unbiased: ClassVar[Target | None] = "maml"

    def __post_init__(self) -> None:
        require(self.directions >= 1, "directions", self.directions, "1 or more")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        solver, start = first_order(self.inner), bilevel.start
        signs = [torch.where(bilevel.noise(i) > 0, 1.0, -1.0).to(start.dtype) for i in range(self.directions)]
        phi, state = start, solver.init(start)
        tangents = [(v, _init_dot(solver, start, v)) for v in signs]
        for step in range(solver.steps):
            hvp = bilevel.inner_hvp(phi)
            new, rows = (phi, state), []
            for v, (phi_dot, state_dot) in zip(signs, tangents, strict=True):
                grad_dot = hvp(phi_dot) - bilevel.strength * v

                def update(phi, grad, *state, step: int = step):
                    return solver.update(step, phi, grad, state)

                dots = (phi_dot, grad_dot, *state_dot)
                new, *moved = torch.func.jvp(update, (phi, hvp.gradient, *state), dots)
                rows += moved
            (phi, state), tangents = new, rows
        query = bilevel.outer_grad(phi)
        slopes = [(query * phi_dot).sum(dim=1, keepdim=True) for phi_dot, _ in tangents]
        rows = [slope * v for slope, v in zip(slopes, signs, strict=True)]
        return Estimate(torch.stack(rows).mean(dim=0), phi, torch.isfinite(phi).all(dim=1), {})

    def cost(self, n_params: int) -> Counts:
        steps = first_order(self.inner).steps
        return Counts(inner_grads=steps, inner_hvps=steps * self.directions, outer_grads=1)


def _init_dot(solver: FirstOrderSolver, start: Vectors, v: Vectors) -> State:
    """How the optimiser's first state moves with theta."""
    if not solver.init(start):
        return ()  # torch.func.jvp takes no function without outputs
    return torch.func.jvp(solver.init, (start,), (v,))[1]
