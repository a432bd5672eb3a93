from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import OuterOptimizer, require
from bench.registry import register


@register("outer", "rmsprop")
@dataclass(frozen=True)
class RMSprop(OuterOptimizer):
    """RMSprop on theta: `torch.optim.RMSprop`.

    v <- decay v + (1 - decay) g^2; theta <- theta - learning_rate g / (sqrt(v) + epsilon).
    """

    learning_rate: float = 1e-3
    decay: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.decay < 1, "decay", self.decay, "0 up to, but not, 1")
        require(self.epsilon > 0, "epsilon", self.epsilon, "a positive number")

    def optimizer(self, theta: Tensor) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            [theta], lr=self.learning_rate, alpha=self.decay, eps=self.epsilon, foreach=False
        )
