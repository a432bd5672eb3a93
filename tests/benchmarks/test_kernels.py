"""The pieces that every meta-gradient is made of: gradients, products, steps of optimisers and of CG.

Without `--benchmark-disable`, times; with it, tests that each is right in float32. No time is asserted.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.api import Bilevel
from bench.registry import build
from tests.benchmarks.problems import PROBLEMS, counts, error, exact, single

Run = Callable[[], Tensor]
OPTIMISERS: tuple[dict[str, Any], ...] = (
    {"name": "gradient_descent"},
    {"name": "momentum"},
    {"name": "nesterov"},
    # A bias before batch norm has no gradient but rounding, which a small epsilon would blow up to a step.
    {"name": "adam", "epsilon": 0.1},
)


def linearise(bilevel: Bilevel) -> Run:
    return lambda: bilevel.inner_hvp(bilevel.start).gradient


def product(bilevel: Bilevel) -> Run:
    hvp, v = bilevel.inner_hvp(bilevel.start), bilevel.noise(0)
    return lambda: hvp(v)


def forward_over_reverse(bilevel: Bilevel) -> Run:
    v = bilevel.noise(0)
    return lambda: bilevel.inner_grad_and_hvp(bilevel.start, v)[1]


def cg_iteration(bilevel: Bilevel) -> Run:
    solver = build("linear", {"name": "conjugate_gradient", "iterations": 1})
    hvp, rhs = bilevel.inner_hvp(bilevel.start), bilevel.outer_grad(bilevel.start)
    return lambda: solver(hvp, rhs).value


def update(optimiser: dict[str, Any]) -> Callable[[Bilevel], Run]:
    """The second step, when the optimiser has a state."""

    def kernel(bilevel: Bilevel) -> Run:
        solver = build("inner", optimiser)
        start = bilevel.start
        grad = bilevel.inner_grad(start)
        phi, state = solver.update(start, grad, solver.init(start), *solver.schedule(0))
        return lambda: solver.update(phi, grad, state, *solver.schedule(1))[0]

    return kernel


KERNELS: dict[str, Callable[[Bilevel], Run]] = {
    "inner_grad": lambda bilevel: lambda: bilevel.inner_grad(bilevel.start),
    "outer_grad": lambda bilevel: lambda: bilevel.outer_grad(bilevel.start),
    "linearise": linearise,
    "product": product,
    "forward_over_reverse": forward_over_reverse,
    "cg_iteration": cg_iteration,
    **{f"update-{optimiser['name']}": update(optimiser) for optimiser in OPTIMISERS},
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(kernel: str, problem: str, benchmark: BenchmarkFixture) -> None:
    bilevel = single(problem)
    run, true = KERNELS[kernel](bilevel), KERNELS[kernel](exact(problem))()
    benchmark.group = f"kernels on {problem}"
    value = benchmark.pedantic(run, rounds=20, iterations=5, warmup_rounds=2)
    benchmark.extra_info.update(counts(bilevel, run), error=error(value, true))
    assert value.dtype == torch.float32
    assert error(value, true) < 1e-4
