"""The inverse Hessian that L-BFGS keeps, for a batch of tasks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.api import Vectors


@dataclass(frozen=True)
class Inverse:
    """B^-1 of every task: its last pairs s, y [history, T, P], 1 / s'y [history, T, 1], and gamma [T, 1].

    Every task has its own history: one that skips a pair, or is finished, keeps all that it had. Slots not
    yet filled are zero and add nothing.
    """

    s: Tensor
    y: Tensor
    rho: Tensor
    gamma: Tensor

    @staticmethod
    def scaled(history: int, gamma: Tensor, like: Vectors) -> "Inverse":
        """gamma I, before any pair."""
        empty = like.new_zeros(history, *like.shape)
        return Inverse(empty, empty, empty[:, :, :1], gamma)

    def updated(self, s: Vectors, y: Vectors) -> "Inverse":
        """With one more pair in place of the oldest, in the tasks where s'y > 1e-10 |s| |y|."""
        sy, yy = (s * y).sum(dim=1, keepdim=True), y.square().sum(dim=1, keepdim=True)
        kept = sy > 1e-10 * (s.square().sum(dim=1, keepdim=True) * yy).sqrt()

        def push(slots: Tensor, new: Tensor) -> Tensor:
            return torch.where(kept, torch.cat([slots[1:], new[None]]), slots)

        rho = 1 / torch.where(kept, sy, 1)
        gamma = torch.where(kept, sy / torch.where(kept, yy, 1), self.gamma)
        return Inverse(push(self.s, s), push(self.y, y), push(self.rho, rho), gamma)

    def __call__(self, v: Vectors) -> Vectors:
        """The two-loop recursion (Nocedal 1980): 4 history P multiplications a task."""
        alphas = []
        for s, y, rho in zip(self.s.flip(0), self.y.flip(0), self.rho.flip(0), strict=True):
            alphas.append(rho * (s * v).sum(dim=1, keepdim=True))
            v = v - alphas[-1] * y
        v = self.gamma * v
        for s, y, rho, alpha in zip(self.s, self.y, self.rho, reversed(alphas), strict=True):
            v = v + (alpha - rho * (y * v).sum(dim=1, keepdim=True)) * s
        return v
