from dataclasses import dataclass

import torch

from bench.api import Bilevel, Estimate, Method, require
from bench.registry import register
from methods.linear import ConjugateGradient


@register("method", "imaml-authors-code")
@dataclass(frozen=True)
class IMAMLAuthorsCode(Method):
    """iMAML as the authors' published code computes it, which is not what the paper says.

    Inner loop: ``steps`` of gradient descent on the support loss alone, then one step on the proximal term:
    phi <- phi - learning_rate * strength * (phi - theta), so phi is not stationary for G. Linear system:
    ((1 + regularisation) I + H / (damping + strength)) meta_grad = grad query_loss where the paper has
    I + H / strength. One product is spent on the zero start. Never exact; recorded as it is.
    """

    steps: int = 16
    learning_rate: float = 0.1
    iterations: int = 5
    regularisation: float = 1.0
    damping: float = 10.0

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.regularisation > -1, "regularisation", self.regularisation, "a number above -1")
        require(self.damping >= 0, "damping", self.damping, "0 or more")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        strength, theta = bilevel.strength, bilevel.start
        phi = theta
        for _ in range(self.steps):
            phi = phi - self.learning_rate * (bilevel.inner_grad(phi) - strength * (phi - theta))
        phi = phi - self.learning_rate * strength * (phi - theta)
        hvp = bilevel.inner_hvp(phi)

        def matvec(v: torch.Tensor) -> torch.Tensor:
            support = hvp(v) - strength * v
            return (1 + self.regularisation) * v + support / (self.damping + strength)

        rhs = bilevel.outer_grad(phi)
        matvec(torch.zeros_like(rhs))
        x, converged, stats = ConjugateGradient(self.iterations)(matvec, rhs)
        return Estimate(x, phi, converged, {f"linear_{name}": value for name, value in stats.items()})
