from dataclasses import dataclass, replace

from bench.api import FirstOrderSolver, State, Vectors, require
from bench.registry import register


@register("inner", "gradient_descent")
@dataclass(frozen=True)
class GradientDescent(FirstOrderSolver):
    """phi <- phi - learning_rate * grad G(phi). One gradient a step; no state.

    Converges linearly on mu-strongly convex, L-smooth G for learning_rate < 2 / L.
    """

    steps: int = 10
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")

    def rule(self) -> "GradientDescent":
        return replace(self, steps=1)

    def init(self, start: Vectors) -> State:
        return ()

    def update(self, phi: Vectors, grad: Vectors, state: State, *numbers: float) -> tuple[Vectors, State]:
        return phi - self.learning_rate * grad, ()
