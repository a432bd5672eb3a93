from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar, Literal

import torch

from bench.api import Bilevel, Estimate, InnerSolver, Method, Target, require
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries.per_task import around, each_task


@register("method", "imaml-betty")
@dataclass(frozen=True)
class IMAMLBetty(Method):
    """iMAML by the hypergradient functions of betty-ml (Choe et al. 2023), task after task.

    ``linear`` "cg" has a `known_fault` and is run as it is; "neumann" is the series of `neumann` with step
    ``alpha``. Around our inner solver.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    linear: Literal["cg", "neumann"] = "cg"
    iterations: int = 5
    alpha: float = 1.0
    needs: ClassVar[tuple[str, ...]] = ("betty-ml>=0.2.1",)
    install: ClassVar[str | None] = "pip install --ignore-requires-python 'betty-ml>=0.2.1'"
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")
        require(self.alpha > 0, "alpha", self.alpha, "a positive number")

    def known_fault(self) -> str | None:
        if self.linear != "cg":
            return None
        return "betty-ml 0.2.1: CG's new direction is built from the old residual, its solution scaled twice"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        from betty.hypergradient.cg import cg
        from betty.hypergradient.neumann import neumann

        config = SimpleNamespace(
            cg_iterations=self.iterations,
            cg_alpha=self.alpha,
            neumann_iterations=self.iterations - 1,  # betty's count leaves out the first term
            neumann_alpha=self.alpha,
        )
        rows, solution = [], self.inner(bilevel, bilevel.start)
        for found, task in zip(solution.value.detach(), each_task(bilevel), strict=True):
            phi = found.clone().requires_grad_()
            theta = task.start.clone().requires_grad_()
            (query,) = torch.autograd.grad(task.query(phi), phi)
            # As much of betty's Problem as its hypergradients read.
            lower = SimpleNamespace(
                paths=[],
                config=config,
                cur_batch=None,
                training_step_exec=lambda _, task=task, phi=phi, theta=theta: task.inner(phi, theta),
                parameters=lambda phi=phi: [phi],
                trainable_parameters=lambda phi=phi: [phi],
            )
            upper = SimpleNamespace(trainable_parameters=lambda theta=theta: [theta])
            rows += {"cg": cg, "neumann": neumann}[self.linear]([query], lower, upper, False) or []
        return around(bilevel, rows, solution, inner_hvps=self.iterations, outer_grads=1)
