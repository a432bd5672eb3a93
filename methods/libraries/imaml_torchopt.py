from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.api import Bilevel, Estimate, InnerSolver, Method, Target, Vector, require
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries.per_task import OneTask, around, each_task, no_functorch_warning


@register("method", "imaml-torchopt")
@dataclass(frozen=True)
class IMAMLTorchOpt(Method):
    """iMAML by TorchOpt's `custom_root` (Ren et al. 2023), task after task, around our inner solver.

    ``linear`` "normal_cg" solves A'A x = A' rhs, as TorchOpt's own iMAML example does: two products an
    iteration and the condition number squared. "cg" is plain conjugate gradient. Exact as `imaml` is.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    linear: Literal["normal_cg", "cg"] = "normal_cg"
    iterations: int = 5
    needs: ClassVar[tuple[str, ...]] = ("torchopt>=0.7.3",)
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        from torchopt import linear_solve

        make = {"normal_cg": linear_solve.solve_normal_cg, "cg": linear_solve.solve_cg}[self.linear]
        solve = make(maxiter=self.iterations, atol=0.0, rtol=0.0)
        rows, solution = [], self.inner(bilevel, bilevel.start)
        for found, task in zip(solution.value, each_task(bilevel), strict=True):
            with no_functorch_warning():
                rows += _meta_grad(task, found, solve)
        products = self.iterations * (2 if self.linear == "normal_cg" else 1)
        return around(bilevel, rows, solution, inner_hvps=products, outer_grads=1)


def _meta_grad(task: OneTask, found: Vector, solve: Callable) -> tuple[Tensor, ...]:
    """Of one task at the inner solution ``found``."""
    from torchopt.diff.implicit import custom_root

    def stationary(phi: Tensor, theta: Tensor) -> Tensor:
        return torch.func.grad(task.inner)(phi, theta)

    @custom_root(stationary, argnums=1, solve=solve)
    def solver(phi: Tensor, theta: Tensor) -> Tensor:
        return found

    theta = task.start.clone().requires_grad_()
    phi: Any = solver(theta, theta)  # typed as any tree of tensors
    return torch.autograd.grad(task.query(phi), theta)
