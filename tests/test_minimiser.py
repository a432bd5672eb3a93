"""Where there is no proper minimiser there is a reason, and never a value."""

from dataclasses import dataclass

import pytest
import torch

from bench.api import Bilevel, Problem, Tasks
from bench.problems import MLP, Sinusoid
from bench.reference import implicit_reference


def bilevel(problem, n_tasks=1):
    generator = torch.Generator().manual_seed(0)
    theta = problem.init(generator)
    return Bilevel(problem, problem.sample(generator, n_tasks), theta)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_implicit_at_low_strength_is_a_minimum_or_a_reason(activation):
    """Never a wrong value: a minimum was found, or there is a reason."""
    b = bilevel(Sinusoid(strength=0.5, network=MLP(hidden=(25, 25), activation=activation)), n_tasks=2)
    reference = implicit_reference(b)
    for task in range(2):
        row = reference.value[task]
        if task in reference.missing:
            assert row.isnan().all()
            assert reference.missing[task].split(":")[0] in ("indefinite", "kink", "no solution", "not found")
        else:
            assert row.isfinite().all()


def test_a_kink_at_the_minimiser_is_named():
    """G = |phi - 1| sums + proximal term from 0: the minimiser sits where the gradient jumps."""

    @dataclass(frozen=True)
    class Absolute(Problem):
        strength: float = 0.1

        def init(self, generator):
            return torch.zeros(4, dtype=torch.float64)

        def sample(self, generator, n_tasks, split="train"):
            x = torch.ones(n_tasks, 1, 4, dtype=torch.float64)
            return Tasks(x, x, x, x)

        def support_loss(self, phi, x, y):
            return (phi - x).abs().sum()

    reference = implicit_reference(bilevel(Absolute()))
    assert "kink" in reference.missing[0]
    assert reference.value.isnan().all()


def test_a_saddle_is_no_solution():
    """theta is stationary, and G curves down there: the equations hold, the reference must not exist."""

    @dataclass(frozen=True)
    class Saddle(Problem):
        dim: int = 4
        strength: float = 1.0

        def init(self, generator):
            return torch.zeros(self.dim, dtype=torch.float64)

        def sample(self, generator, n_tasks, split="train"):
            x = torch.ones(n_tasks, 1, self.dim, dtype=torch.float64)
            return Tasks(x, x, x, x)

        def support_loss(self, phi, x, y):
            return phi[1:].square().sum() - 2 * phi[0] ** 2 + phi[0] ** 4

        def query_loss(self, phi, x, y):
            return (phi - x).square().sum()

    for dim in (4, 600):  # by eigendecomposition, by products
        reference = implicit_reference(bilevel(Saddle(dim)))
        assert "indefinite" in reference.missing[0]
        assert "-3" in reference.missing[0]


def test_work_is_bounded(monkeypatch):
    monkeypatch.setattr("bench.minimiser.MAX_CALLS", 40)
    b = bilevel(Sinusoid(strength=0.5, network=MLP(activation="tanh")), n_tasks=1)
    reference = implicit_reference(b)
    assert "no solution within 40" in reference.missing[0]
    assert "fell to" in reference.missing[0]
