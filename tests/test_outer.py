"""Outer optimizers: their rules written out, and planted faults, each of which the battery finds."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bench.api import OuterOptimizer
from bench.registry import build, register
from bench.testing import check_outer_optimizer
from tests.toy_cells import lend_registry

TOY = "toy-outer"


def moved(table: dict[str, Any], gradients: list[torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    theta = start.clone().requires_grad_()
    optimizer = build("outer", table).optimizer(theta)
    for gradient in gradients:
        theta.grad = gradient.clone()
        optimizer.step()
    return theta.detach()


def gradients(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return list(torch.randn(n, 5, generator=generator, dtype=torch.float64))


START = torch.linspace(-1, 2, 5, dtype=torch.float64)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_by_its_rule(nesterov):
    rate, momentum, decay = 0.1, 0.9, 0.01
    theta, velocity = START, None
    for gradient in gradients(4):
        g = gradient + decay * theta
        velocity = g if velocity is None else momentum * velocity + g
        theta = theta - rate * (g + momentum * velocity if nesterov else velocity)
    table = {"name": "sgd", "learning_rate": rate, "momentum": momentum, "weight_decay": decay}
    torch.testing.assert_close(moved(table | {"nesterov": nesterov}, gradients(4), START), theta)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_by_its_rule(epsilon, decoupled):
    rate, b1, b2, decay = 0.01, 0.8, 0.99, 0.1
    theta, m, v = START, torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for t, gradient in enumerate(gradients(4), 1):
        g = 1e-3 * gradient + (0 if decoupled else decay * theta)  # small, so that epsilon is seen
        theta = theta * (1 - rate * decay) if decoupled else theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        theta = theta - rate * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + epsilon)
    table = {"name": "adam", "learning_rate": rate, "beta1": b1, "beta2": b2, "epsilon": epsilon}
    table |= {"weight_decay": decay, "decoupled": decoupled}
    found = moved(table, [1e-3 * g for g in gradients(4)], START)
    torch.testing.assert_close(found, theta, rtol=1e-12, atol=1e-12)


def test_rmsprop_by_its_rule():
    theta, v = START, torch.zeros(5, dtype=torch.float64)
    for g in gradients(4):
        v = 0.9 * v + 0.1 * g**2
        theta = theta - 0.01 * g / (v.sqrt() + 1e-3)
    table = {"name": "rmsprop", "learning_rate": 0.01, "decay": 0.9, "epsilon": 1e-3}
    torch.testing.assert_close(moved(table, gradients(4), START), theta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "table",
    [
        {"name": "sgd"},
        {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"name": "adam"},
        {"name": "adam", "epsilon": 1e-3, "decoupled": True, "weight_decay": 0.01},
        {"name": "rmsprop"},
    ],
    ids=str,
)
def test_battery(table):
    checks = check_outer_optimizer(table)
    assert len(checks) >= 12
    assert all(check.passed for check in checks), [c for c in checks if not c.passed]


class _Ascent(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = -p.grad
        return super().step(closure)


class _Decaying(torch.optim.SGD):
    """Its learning rate lies in the group, which no checkpoint holds."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.5


class _Noisy(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad + 1e-3 * torch.randn_like(p)
        return super().step(closure)


class _NoEpsilon(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad / p.grad.norm()
        return super().step(closure)


def _with_notes(theta):
    made = torch.optim.SGD([theta], lr=0.1)
    made.state[theta]["notes"] = ["a list"]
    return made


def _of_another(theta):
    return torch.optim.SGD([theta.detach().clone().requires_grad_()], lr=0.1)


def _with_a_start(theta):
    with torch.no_grad():
        theta.fill_(1.0)
    return torch.optim.SGD([theta], lr=0.1)


MAKERS = {
    "ascent": lambda theta: _Ascent([theta], lr=0.1),
    "decaying": lambda theta: _Decaying([theta], lr=0.1),
    "noisy": lambda theta: _Noisy([theta], lr=0.1),
    "no epsilon": lambda theta: _NoEpsilon([theta], lr=0.1),
    "notes": _with_notes,
    "another": _of_another,
    "a start": _with_a_start,
    "too far": lambda theta: torch.optim.SGD([theta], lr=10.0),
}


@dataclass(frozen=True)
class Planted(OuterOptimizer):
    fault: str = "ascent"

    def optimizer(self, theta):
        return MAKERS[self.fault](theta)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("ascent", "the first step goes downhill"),
        ("decaying", "goes on from a checkpoint with the same bits"),
        ("noisy", "same gradients, same bits"),
        ("noisy", "global random state untouched"),
        ("no epsilon", "finite where every gradient is zero"),
        ("notes", "its state can be kept"),
        ("another", "of theta and nothing else"),
        ("a start", "making it moves nothing"),
        ("too far", "lowers a convex quadratic"),
    ],
)
def test_planted_faults_are_found(fault, found, monkeypatch):
    lend_registry(monkeypatch)
    register("outer", TOY)(Planted)
    failed = {
        check.name for check in check_outer_optimizer({"name": TOY, "fault": fault}) if not check.passed
    }
    assert found in failed
