from dataclasses import dataclass, replace

import torch

from bench.api import FirstOrderSolver, State, Vectors, require
from bench.registry import register


@register("inner", "adam")
@dataclass(frozen=True)
class Adam(FirstOrderSolver):
    """Adam (Kingma and Ba 2015), differentiable, with torch's place of epsilon.

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    phi <- phi - learning_rate * m^ / (sqrt(v^) + epsilon), m^ and v^ bias-corrected.
    One gradient a step; the state is (m, v). Where v is zero, the step is zero and so is its derivative.
    That is where every gradient so far was exactly zero (a unit that is dead on the support set): the loss
    does not depend on that parameter nearby, and 1 / epsilon, which the formula gives, would only amplify
    rounding. It is also where (1 - beta2) g^2 rounds to zero: |g| below 1e-21 in float32, but 5e-3 in
    float16, where Adam stands still at gradients that other solvers follow (and epsilon rounds to 0).
    """

    steps: int = 10
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "0 up to, but not, 1")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 up to, but not, 1")
        require(self.epsilon > 0, "epsilon", self.epsilon, "a positive number")

    def rule(self) -> "Adam":
        return replace(self, steps=1)

    def init(self, start: Vectors) -> State:
        return torch.zeros_like(start), torch.zeros_like(start)

    def schedule(self, step: int) -> tuple[float, float]:
        return 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)

    def update(self, phi: Vectors, grad: Vectors, state: State, *numbers: float) -> tuple[Vectors, State]:
        correction1, correction2 = numbers
        m = self.beta1 * state[0] + (1 - self.beta1) * grad
        v = self.beta2 * state[1] + (1 - self.beta2) * grad.square()
        m_hat = m / correction1
        v_hat = v / correction2
        moving = v_hat > 0
        root = torch.where(moving, torch.where(moving, v_hat, 1.0).sqrt(), 0.0)
        ratio = torch.where(moving, m_hat / (root + self.epsilon), 0.0)
        return phi - self.learning_rate * ratio, (m, v)
