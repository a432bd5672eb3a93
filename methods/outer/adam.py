from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import OuterOptimizer, require
from bench.registry import register


@register("outer", "adam")
@dataclass(frozen=True)
class Adam(OuterOptimizer):
    """Adam (Kingma and Ba 2015) on theta: `torch.optim.Adam`, or with ``decoupled`` `torch.optim.AdamW`.

    theta <- theta - learning_rate m^ / (sqrt(v^) + epsilon), m and v the bias-corrected running means of the
    meta-gradient and its square. MAML (Finn et al. 2017) takes learning rate 1e-3 and epsilon 1e-8, the
    iMAML authors' code epsilon 1e-3.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "0 up to, but not, 1")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 up to, but not, 1")
        require(self.epsilon > 0, "epsilon", self.epsilon, "a positive number")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")

    def optimizer(self, theta: Tensor) -> torch.optim.Optimizer:
        cls = torch.optim.AdamW if self.decoupled else torch.optim.Adam
        return cls(
            [theta],
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            foreach=False,
        )
