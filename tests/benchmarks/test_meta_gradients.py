"""Whole meta-gradients. Without `--benchmark-disable`, times; with it, tests. No time is asserted."""

from functools import cache
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.api import Bilevel
from bench.compiled import Engine
from bench.reference import maml_reference
from bench.registry import build
from tests.benchmarks.problems import PROBLEMS, STEPS, counts, error, exact, single

METHODS: dict[str, dict[str, Any]] = {
    "maml-adjoint": {"name": "maml", "backward": "adjoint"},
    "maml-unrolled": {"name": "maml", "backward": "unrolled"},
    "fomaml": {"name": "fomaml"},
    "imaml": {"name": "imaml", "linear": {"name": "conjugate_gradient", "iterations": 5}},
}


@cache
def through_the_steps(problem: str) -> Tensor:
    """Exact MAML in float64, which all methods share."""
    inner = build("inner", {"name": "gradient_descent", **STEPS[problem]})
    return maml_reference(exact(problem), inner).value


@pytest.mark.parametrize("name", ["maml-adjoint", "fomaml", "imaml"])
def test_compiled_meta_gradient(name: str, benchmark: BenchmarkFixture) -> None:
    """On the sinusoids, whose kernels take seconds to build; that is before the rounds."""
    method = build("method", METHODS[name] | {"inner": {"name": "gradient_descent", **STEPS["sinusoid"]}})
    true, engine = exact("sinusoid"), Engine()
    bilevel = Bilevel(true.problem, true.tasks.to(torch.float32), true.meta.float(), engine=engine)
    benchmark.group = "meta-gradients on sinusoid"
    estimate = benchmark.pedantic(method, (bilevel,), rounds=7, warmup_rounds=1)
    kernels = engine.report()
    rounding = error(estimate.meta_grad, method(true).meta_grad)
    benchmark.extra_info.update(kernels=kernels, rounding=rounding)
    assert rounding < 1e-3
    assert not [kernel for kernel in kernels.values() if "eager" in kernel]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", METHODS)
def test_meta_gradient(name: str, problem: str, benchmark: BenchmarkFixture) -> None:
    inner = {"name": "gradient_descent", **STEPS[problem]}
    method = build("method", METHODS[name] | {"inner": inner})
    bilevel, true = single(problem), exact(problem)
    benchmark.group = f"meta-gradients on {problem}"
    estimate = benchmark.pedantic(method, (bilevel,), rounds=7, warmup_rounds=1)
    rounding = error(estimate.meta_grad, method(true).meta_grad)
    to_maml = error(estimate.meta_grad, through_the_steps(problem))
    found = counts(bilevel, lambda: method(bilevel))
    benchmark.extra_info.update(found, rounding=rounding, error=to_maml)
    assert estimate.meta_grad.dtype == torch.float32
    assert rounding < 1e-3
    assert to_maml < (1e-3 if name.startswith("maml") else 1)
    assert found["calls"] == method.cost(bilevel.meta.numel()).as_dict()
