"""Linear regression with exact solutions: the problem on which every claim can be checked."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.api import Problem, Split, Tasks, Vector, Vectors, require
from bench.registry import register


@register("problem", "linear_regression")
@dataclass(frozen=True)
class LinearRegression(Problem):
    """Quadratic inner problem 1/(2n) ||X phi - y||^2 + strength/2 ||phi - theta||^2, y = X w_t + noise.

    Every task has its own Gaussian X and weights w_t. X is scaled so that the Hessian of the inner
    objective, H + strength I, has its largest eigenvalue at ``strength * condition`` (the smoothness L) in
    every task; with fewer support points than dimensions its smallest one is ``strength``, so ``condition``
    is the exact condition number. The minimiser and the implicit meta-gradient are known in closed form.

    Inputs are then multiplied by ``scale * input_scale`` and targets by ``scale``; with s the factor of the
    inputs, the smoothness becomes strength (1 + s^2 (condition - 1)). The draws are the same at every scale.
    """

    dim: int = 50
    support: int = 10
    query: int = 10
    condition: float = 6.0
    strength: float = 2.0
    noise: float = 0.1
    scale: float = 1.0
    input_scale: float = 1.0
    later: ClassVar[tuple[str, ...]] = ("scale", "input_scale")

    def __post_init__(self) -> None:
        require(self.dim >= 1, "dim", self.dim, "1 or more")
        require(self.support >= 1, "support", self.support, "1 or more points")
        require(self.query >= 1, "query", self.query, "1 or more points")
        require(self.condition > 1, "condition", self.condition, "a number above 1")
        require(self.strength > 0, "strength", self.strength, "a positive number")
        require(self.noise >= 0, "noise", self.noise, "0 or more")
        require(self.scale > 0, "scale", self.scale, "a positive number")
        require(self.input_scale > 0, "input_scale", self.input_scale, "a positive number")

    def init(self, generator: torch.Generator) -> Vector:
        return torch.randn(self.dim, generator=generator, dtype=torch.float64)

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        tasks = [self._task(generator) for _ in range(n_tasks)]
        return Tasks(*(torch.stack(rows) for rows in zip(*tasks, strict=True)))

    def _task(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n, dim = self.support + self.query, self.dim
        x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        weights = torch.randn(dim, generator=generator, dtype=torch.float64)
        noise = self.noise * torch.randn(n, generator=generator, dtype=torch.float64)
        largest = torch.linalg.matrix_norm(x[: self.support], ord=2).square() / self.support
        x = x * (self.strength * (self.condition - 1) / largest).sqrt()
        y = self.scale * (x @ weights + noise)
        x = self.scale * self.input_scale * x
        return x[: self.support], y[: self.support], x[self.support :], y[self.support :]

    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor:
        return self.output_loss(self.outputs(phi, x), y)

    def outputs(self, phi: Vector, x: Tensor) -> Tensor:
        return x @ phi

    def output_loss(self, z: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (z - y).square().mean()

    def inner_solution(self, meta: Vectors, tasks: Tasks) -> Vectors:
        """(X'X/n + strength I)^-1 (X'y/n + strength theta), by a dense Cholesky solve."""
        x, y = tasks.support_x, tasks.support_y
        n = x.shape[1]
        hessian = x.mT @ x / n + self.strength * torch.eye(self.dim, dtype=x.dtype, device=x.device)
        rhs = (x.mT @ y.unsqueeze(-1)) / n + self.strength * meta.unsqueeze(-1)
        return torch.cholesky_solve(rhs, torch.linalg.cholesky(hessian)).squeeze(-1)
