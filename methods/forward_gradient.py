from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, Target, finite, require
from bench.registry import register
from methods.backward import first_order, push_forward
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
        solver, like = first_order(self.inner), bilevel.start
        signs = [torch.where(bilevel.noise(i) > 0, 1.0, -1.0).to(like.dtype) for i in range(self.directions)]
        phi, tangents = push_forward(bilevel, solver, signs)
        query = bilevel.outer_grad(phi)
        slopes = [(query * tangent).sum(dim=1, keepdim=True) for tangent in tangents]
        rows = [slope * v for slope, v in zip(slopes, signs, strict=True)]
        return Estimate(torch.stack(rows).mean(dim=0), phi, finite(phi), {})

    def cost(self, n_params: int) -> Counts:
        steps = first_order(self.inner).steps
        return Counts(inner_grads=steps, inner_hvps=steps * self.directions, outer_grads=1)
