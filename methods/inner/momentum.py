from dataclasses import dataclass, replace

import torch

from bench.api import FirstOrderSolver, State, Vectors, require
from bench.registry import register


@register("inner", "momentum")
@dataclass(frozen=True)
class Momentum(FirstOrderSolver):
    """Heavy ball (Polyak 1964) in torch's form: b <- momentum * b + grad; phi <- phi - learning_rate * b.

    One gradient a step; the state is the buffer b, zero at the start.
    """

    steps: int = 10
    learning_rate: float = 0.01
    momentum: float = 0.9

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "0 up to, but not, 1")

    def rule(self) -> "Momentum":
        return replace(self, steps=1)

    def init(self, start: Vectors) -> State:
        return (torch.zeros_like(start),)

    def update(self, phi: Vectors, grad: Vectors, state: State, *numbers: float) -> tuple[Vectors, State]:
        buffer = self.momentum * state[0] + grad
        return phi - self.learning_rate * buffer, (buffer,)
