from dataclasses import dataclass, field

import torch

from bench.api import Bilevel, InnerSolver, LinearSolver, Solution, Vectors, require
from bench.registry import register
from methods.inner.goal import goal
from methods.inner.line_search import Searches, backtrack
from methods.linear.conjugate_gradient import ConjugateGradient


@register("inner", "hessian_free")
@dataclass(frozen=True)
class HessianFree(InnerSolver):
    """Newton-CG with a backtracking line search (Martens 2010; inner solver "HF" of iMAML, 2019).

    d from Hessian d = -grad by a few CG iterations, the negative gradient where that is no descent
    direction; phi <- phi + t d with t halved from 1 until G decreases by 1e-4 t grad'd (Armijo).
    A task stops at |grad G| <= tolerance |grad G(start)|, its promise, at a start where grad G is rounding
    (`goal`), or where no t is accepted. Not differentiable: the line search is a sequence of comparisons.
    A step costs one gradient, the products of the linear solver and one value per trial t. Statistics:
    `Searches`.
    """

    steps: int = 10
    tolerance: float = 1e-6
    linear: LinearSolver = field(default_factory=lambda: ConjugateGradient(iterations=5))
    halvings: int = 30

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")
        require(self.halvings >= 0, "halvings", self.halvings, "0 or more")

    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution:
        phi, value = start, bilevel.inner_value(start)
        grad = bilevel.inner_grad(start)
        norm = torch.linalg.vector_norm(grad, dim=1)
        enough = goal(bilevel, start, grad, self.tolerance)
        active = norm > enough
        searches = Searches(value)
        for _ in range(self.steps):
            if not active.any():
                break
            hvp = bilevel.inner_hvp(phi)
            grad = hvp.gradient
            direction, _, solved = self.linear(hvp, -grad, noise=bilevel.noise)
            slope = (grad * direction).sum(dim=1)
            usable = torch.isfinite(slope) & (slope < 0)
            direction = torch.where(usable[:, None], direction, -grad)
            slope = torch.where(usable, slope, -grad.square().sum(dim=1))
            before = value
            phi, value, accepted, t = backtrack(bilevel, phi, value, direction, slope, active, self.halvings)
            searches.add(active, accepted, before, value, slope, torch.ones_like(t), t)
            searches.count("no_descent", active & ~usable)
            if "smallest_curvature" in solved:
                searches.count("negative_curvature", active & (solved["smallest_curvature"] <= 0))
            norm = torch.linalg.vector_norm(bilevel.inner_grad(phi), dim=1)
            active = accepted & (norm > enough)
        return Solution(phi, norm <= enough, searches.stats())
