from dataclasses import dataclass

import torch

from bench.api import Bilevel, InnerSolver, Solution, Vectors, require
from bench.registry import register
from methods.inner.goal import goal
from methods.inner.line_search import Searches, backtrack


@register("inner", "armijo")
@dataclass(frozen=True)
class Armijo(InnerSolver):
    """Gradient descent with backtracking (Armijo 1966): no learning rate to tune.

    phi <- phi - t grad G(phi), t halved until G decreases by 1e-4 t |grad|^2. The first trial is
    ``learning_rate`` in the first step, then twice the last accepted t of the task.
    Exact in the limit: converges to a stationary point of smooth G, linearly where G is strongly convex.
    A task stops at |grad G| <= tolerance |grad G(start)|, its promise, at a start where grad G is rounding
    (`goal`), or where no t is accepted. A step costs one gradient and one value per trial t. Statistics:
    `Searches`. Differentiable with t as a constant: method `maml-line-search`.
    """

    steps: int = 10
    tolerance: float = 1e-6
    learning_rate: float = 1.0
    halvings: int = 30

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(self.halvings >= 0, "halvings", self.halvings, "0 or more")

    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution:
        phi, value, grad = start, bilevel.inner_value(start), bilevel.inner_grad(start)
        norm = torch.linalg.vector_norm(grad, dim=1)
        enough = goal(bilevel, start, grad, self.tolerance)
        active = norm > enough
        searches = Searches(value)
        t = torch.full_like(value, self.learning_rate)
        for _ in range(self.steps):
            if not active.any():
                break
            slope = -grad.square().sum(dim=1)
            before, first = value, t
            phi, value, accepted, t = backtrack(bilevel, phi, value, -grad, slope, active, self.halvings, t)
            searches.add(active, accepted, before, value, slope, first, t)
            t = 2 * t
            grad = bilevel.inner_grad(phi)
            norm = torch.linalg.vector_norm(grad, dim=1)
            active = accepted & (norm > enough)
        return Solution(phi, norm <= enough, searches.stats())
