"""What is benchmarked on, and the counts that go with every time."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import measure
from bench.api import Bilevel
from bench.operations import operations
from bench.registry import build
from bench.testing.samples import draw

GLYPHS = {"name": "glyphs", "queries": 5, "strength": 100.0, "network": {"name": "conv4", "filters": 8}}
SINUSOID = {"name": "sinusoid", "strength": 40.0, "network": {"name": "mlp", "activation": "tanh"}}
PROBLEMS = {"sinusoid": (SINUSOID, 25), "glyphs": (GLYPHS, 2)}  # with the number of tasks
STEPS = {"sinusoid": {"steps": 10, "learning_rate": 0.01}, "glyphs": {"steps": 3, "learning_rate": 0.005}}


def exact(problem: str) -> Bilevel:
    """The tasks of a problem in float64, but rounded to what `single` gets."""
    table, n_tasks = PROBLEMS[problem]
    return draw(build("problem", table), n_tasks).to(torch.float32).to(torch.float64)


def single(problem: str) -> Bilevel:
    """The same tasks in float32."""
    return exact(problem).to(torch.float32)


def error(value: Tensor, true: Tensor) -> float:
    """The largest relative error over tasks."""
    return float(((value.double() - true).norm(dim=1) / true.norm(dim=1)).max())


def counts(bilevel: Bilevel, run: Callable[[], object]) -> dict[str, Any]:
    """Oracle calls, operators, FLOPs and peak tensor bytes of one call of ``run``, which uses ``bilevel``."""
    before = bilevel.calls.as_dict()
    run()
    calls = {name: number - before[name] for name, number in bilevel.calls.as_dict().items()}
    peak = measure.tensor_bytes(run, torch.device("cpu"))["peak"]
    return {"calls": calls, **operations(run), "peak_bytes": peak}
