from dataclasses import dataclass

import torch

from bench.api import Declined, LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import finish, scale_of


@register("linear", "dense")
@dataclass(frozen=True)
class Dense(LinearSolver):
    """The matrix built column by column, then one LU solve. Exact up to rounding; indefinite A is fine.

    LU gives numbers for a singular A too, so that only a residual up to sqrt(eps) of the dtype is converged.
    Costs P products and P^3 operations a task, and T P^2 numbers of memory; declines above ``max_size``.
    """

    max_size: int = 4000

    def __post_init__(self) -> None:
        require(self.max_size >= 1, "max_size", self.max_size, "1 or more")

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        n_tasks, size = rhs.shape
        if size > self.max_size:
            raise Declined(f"a dense solve of {size} parameters; max_size is {self.max_size}")
        if rhs.dtype in (torch.float16, torch.bfloat16):
            raise Declined(f"torch has no LU decomposition in {str(rhs.dtype).removeprefix('torch.')}")
        matrix = rhs.new_empty(n_tasks, size, size)
        unit = torch.zeros_like(rhs)
        for column in range(size):
            unit[:, column] = 1
            matrix[:, :, column] = matvec(unit)
            unit[:, column] = 0
        scale = scale_of(rhs)[:, None]
        b = rhs / scale
        x, info = torch.linalg.solve_ex(matrix, b)
        left = torch.linalg.vector_norm(b - (matrix @ x.unsqueeze(-1)).squeeze(-1), dim=1)
        norm = torch.linalg.vector_norm(b, dim=1)
        residual = left / torch.where(norm > 0, norm, 1)
        met = (info == 0) & (residual <= torch.finfo(rhs.dtype).eps ** 0.5)
        return finish(scale, x, met, {"residual": residual, "iterations": torch.full_like(norm, size)})

    def products(self, n_params: int) -> int | None:
        return n_params
