from dataclasses import dataclass

import torch

from bench.api import Bilevel, InnerSolver, Matvec, Solution, Vectors, require
from bench.registry import register
from methods.inner.goal import goal
from methods.inner.line_search import Searches, backtrack
from methods.inner.quasi_newton import Inverse


@register("inner", "lbfgs")
@dataclass(frozen=True)
class LBFGS(InnerSolver):
    """Limited-memory BFGS (Liu and Nocedal 1989) with Armijo backtracking from t = 1.

    phi <- phi - t B^-1 grad G(phi), B^-1 from the last ``history`` pairs s = change of phi, y = change of
    the gradient, on gamma I with gamma = s'y / y'y of the newest kept pair (1 / |grad| before any). A task
    skips a pair with s'y <= 1e-10 |s| |y|, and takes the negative gradient where there is no descent.
    A task stops at |grad G| <= tolerance |grad G(start)|, its promise, at a start where grad G is rounding
    (`goal`), or where no t is accepted. A step costs one gradient and one value per trial t, no Hessian
    products. Statistics: `Searches`. Differentiable with t as a constant: method `maml-line-search`.
    """

    steps: int = 10
    tolerance: float = 1e-6
    history: int = 10
    halvings: int = 30

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")
        require(self.history >= 1, "history", self.history, "1 or more")
        require(self.halvings >= 0, "halvings", self.halvings, "0 or more")

    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution:
        return self.minimise(bilevel, start)[0]

    def minimise(self, bilevel: Bilevel, start: Vectors) -> tuple[Solution, Matvec]:
        """The solution, and the map v -> B^-1 v of every task at it."""
        phi, value, grad = start, bilevel.inner_value(start), bilevel.inner_grad(start)
        norm = torch.linalg.vector_norm(grad, dim=1)
        enough = goal(bilevel, start, grad, self.tolerance)
        active = norm > enough
        searches = Searches(value)
        usable = torch.isfinite(enough) & (norm > 0)
        inverse = Inverse.scaled(self.history, 1 / torch.where(usable, norm, 1)[:, None], start)
        for _ in range(self.steps):
            if not active.any():
                break
            direction = -inverse(grad)
            slope = (grad * direction).sum(dim=1)
            usable = torch.isfinite(slope) & (slope < 0)
            direction = torch.where(usable[:, None], direction, -grad)
            slope = torch.where(usable, slope, -grad.square().sum(dim=1))
            old, old_grad, before = phi, grad, value
            phi, value, accepted, t = backtrack(bilevel, phi, value, direction, slope, active, self.halvings)
            searches.add(active, accepted, before, value, slope, torch.ones_like(t), t)
            searches.count("no_descent", active & ~usable)
            grad = bilevel.inner_grad(phi)
            s, y = phi - old, grad - old_grad
            searches.count("negative_curvature", accepted & ((s * y).sum(dim=1) <= 0))
            inverse = inverse.updated(s, y)
            norm = torch.linalg.vector_norm(grad, dim=1)
            active = accepted & (norm > enough)
        return Solution(phi, norm <= enough, searches.stats()), inverse
