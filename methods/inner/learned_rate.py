from dataclasses import dataclass, replace

from bench.api import FirstOrderSolver, State, Vectors, require
from bench.registry import register


@register("inner", "learned_rate")
@dataclass(frozen=True)
class LearnedRate(FirstOrderSolver):
    """Gradient descent whose step is meta-learnt: phi <- phi - learning_rate * exp(c) * grad G(phi).

    c is the last entry of theta, as the problem `learned_rate` has it; the same step for all parameters
    (Meta-SGD, Li et al. 2017, has one for each). A derivative through the steps goes through the step size
    too. One gradient a step. On any other problem it takes a weight of the network for c.
    """

    steps: int = 10
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")

    def rule(self) -> "LearnedRate":
        return replace(self, steps=1)

    def init(self, start: Vectors) -> State:
        return ((self.learning_rate * start[:, -1:].exp()).expand_as(start),)

    def update(self, phi: Vectors, grad: Vectors, state: State, *numbers: float) -> tuple[Vectors, State]:
        return phi - state[0] * grad, state
