from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import OuterOptimizer, require
from bench.registry import register


@register("outer", "sgd")
@dataclass(frozen=True)
class SGD(OuterOptimizer):
    """Gradient descent on theta, with momentum where it is not 0: `torch.optim.SGD`.

    b <- momentum b + g + weight_decay theta; theta <- theta - learning_rate b, or with ``nesterov`` along
    g + weight_decay theta + momentum b. The first b is the first gradient, as torch has it.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "0 up to, but not, 1")
        require(not self.nesterov or self.momentum > 0, "nesterov", self.nesterov, "false without momentum")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")

    def optimizer(self, theta: Tensor) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            [theta],
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            foreach=False,
        )
