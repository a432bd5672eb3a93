"""The battery of outer optimizers."""

from typing import Any

import torch
from torch import Tensor

from bench.api import OuterOptimizer
from bench.registry import build
from bench.testing.battery import Battery, battery
from bench.train import Course, Training

SIZE, STEPS = 8, 100
METHOD = {"name": "fomaml", "inner": {"name": "gradient_descent", "steps": 3, "learning_rate": 0.02}}


@battery
def check_outer_optimizer(run: Battery, plugin: OuterOptimizer | str | dict[str, Any]) -> None:
    """The battery of an outer optimizer: downhill, determinism, a checkpoint that holds all of its state."""
    outer = run.construct("outer", plugin)
    if outer is None:
        return
    theta = _leaf(torch.float64)
    made = run.attempt("makes an optimizer", lambda: outer.optimizer(theta))
    if made is None:
        return
    run.add("is one of torch", isinstance(made, torch.optim.Optimizer), type(made).__name__)
    owned = [p for group in made.param_groups for p in group["params"]]
    run.add("of theta and nothing else", len(owned) == 1 and owned[0] is theta, f"{len(owned)} tensors")
    run.add("making it moves nothing", not theta.any())
    ahead = _gradient()
    moved = _stepped(outer, [ahead], torch.float64)
    run.add("the first step goes downhill", float(moved @ ahead) < 0, f"g'd = {float(moved @ ahead):.3g}")
    run.add("lowers a convex quadratic", *_descent(outer))
    state = torch.get_rng_state()
    several = [_gradient(seed) for seed in range(5)]
    one, other = (_stepped(outer, several, torch.float64) for _ in range(2))
    run.add("same gradients, same bits", torch.equal(one, other))
    run.add("global random state untouched", torch.equal(state, torch.get_rng_state()))
    still = _stepped(outer, [torch.zeros_like(ahead)] * 2, torch.float64)
    run.add("finite where every gradient is zero", bool(torch.isfinite(still).all()))
    single = run.attempt("float32", lambda: _stepped(outer, [ahead.float()], torch.float32))
    run.add("float32 in, float32 out", single is not None and single.dtype == torch.float32)
    _check_resumes(run, outer)


def _check_resumes(run: Battery, outer: OuterOptimizer) -> None:
    """Training that goes on from a checkpoint is training in one go."""
    name = "goes on from a checkpoint with the same bits"
    problem = build("problem", {"name": "linear_regression", "dim": SIZE, "support": 5, "query": 5})
    device = torch.device("cpu")
    course = Course(problem, build("method", METHOD), outer, 3, 0, torch.float64, device, 3)
    whole, first, second = (Training(course) for _ in range(3))
    _advance(whole, 6)
    _advance(first, 3)
    kept = run.attempt("its state can be kept", first.checkpoint)
    if kept is None:
        return
    second.restore(kept)
    _advance(second, 3)
    apart = float((second.theta - whole.theta).norm() / whole.theta.norm())
    run.add(name, torch.equal(second.theta, whole.theta), f"relative difference {apart:.1e}")


def _advance(training: Training, steps: int) -> None:
    for _ in range(steps):
        training.advance()


def _descent(outer: OuterOptimizer) -> tuple[bool, str]:
    """Of (theta - c)' D (theta - c) / 2, curvatures from 0.1 to 1, from theta = 0."""
    centre, curvature = _gradient(9), torch.linspace(0.1, 1.0, SIZE, dtype=torch.float64)
    theta = _leaf(torch.float64)
    made = outer.optimizer(theta)
    for _ in range(STEPS):
        theta.grad = curvature * (theta.detach() - centre)
        made.step()
    before, after = (
        float((curvature * (x - centre).square()).sum() / 2) for x in (0 * centre, theta.detach())
    )
    return after < before, f"{before:.3g} to {after:.3g} in {STEPS} steps"


def _stepped(outer: OuterOptimizer, gradients: list[Tensor], dtype: torch.dtype) -> Tensor:
    theta = _leaf(dtype)
    made = outer.optimizer(theta)
    for gradient in gradients:
        theta.grad = gradient.clone()
        made.step()
    return theta.detach()


def _leaf(dtype: torch.dtype) -> Tensor:
    return torch.zeros(SIZE, dtype=dtype, requires_grad=True)


def _gradient(seed: int = 0) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
