"""Real solvers in wrappers that one line makes slower, larger or faster, as a change to their code would.

The description of a cell, and so its id, stays the same; ``planted`` says what has become of the code.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from bench.api import FirstOrderSolver, LinearSolver
from bench.registry import register
from methods.inner import GradientDescent
from methods.linear import ConjugateGradient

Fault = Literal["extra product", "product saved", "copies", "idle operator", "wrong sign", "raises"]

planted: Fault | None = None
_kept: list[Tensor] = []


@register("linear", "toy-gate-cg")
@dataclass(frozen=True)
class PlantedConjugateGradient(LinearSolver):
    """Conjugate gradient, three iterations."""

    inside: LinearSolver = field(default_factory=lambda: ConjugateGradient(3))

    def __call__(self, matvec, rhs, start=None, noise=None):
        if planted == "raises":
            raise ArithmeticError("two and two make five")

        def product(v):
            if planted == "extra product":
                matvec(v)
            return -matvec(v) if planted == "wrong sign" else matvec(v)

        if planted == "idle operator":
            rhs.sum()  # outside what is compiled
        inside = ConjugateGradient(2) if planted == "product saved" else self.inside
        return inside(product, rhs, start, noise)


@register("inner", "toy-gate-descent")
@dataclass(frozen=True)
class PlantedDescent(FirstOrderSolver):
    """Gradient descent."""

    steps: int = 4
    learning_rate: float = 0.05

    def init(self, start):
        _kept.clear()
        return ()

    def update(self, phi, grad, state):
        if planted == "copies":
            _kept.append(phi.detach().clone())
        if planted == "idle operator":
            phi.sum()
        return GradientDescent(self.steps, self.learning_rate).update(phi, grad, state)
