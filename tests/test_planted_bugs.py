"""The faults of other implementations, planted in copies of our methods: the battery must find each of them.

Those of conjugate gradient are in `test_planted_bugs_linear`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch.nn.functional import batch_norm

from bench.api import (
    Bilevel,
    Counts,
    Estimate,
    FirstOrderSolver,
    InnerSolver,
    Method,
    Problem,
    Target,
    Tasks,
)
from bench.registry import build, register
from bench.testing import check_inner_solver, check_method
from bench.testing.samples import draw
from methods.backward import adjoint
from methods.inner import GradientDescent
from tests.cases import GD, NEWTON

TOY = "toy-planted"


def failed(plugin: Method, **options) -> set[str]:
    return {check.name for check in check_method(plugin, **options) if not check.passed}


def exact(promise: str) -> set[str]:
    problems = ("linear_regression", "sinusoid")
    return {f"equals the exact {promise} gradient on {problem}" for problem in problems}


@register("method", f"{TOY}-first-order")
@dataclass(frozen=True)
class FirstOrderByAnotherName(Method):
    """A much used "MAML" for memory curves: it never builds second derivatives."""

    inner: InnerSolver = field(default_factory=GradientDescent)
    exact: ClassVar[Target | None] = "maml"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        return Estimate(bilevel.outer_grad(phi), phi, converged, stats)


@register("method", f"{TOY}-damping")
@dataclass(frozen=True)
class MisplacedDamping(Method):
    """The iMAML authors' code: (1 + 1) I + H / (10 + strength) in place of I + H / strength."""

    inner: InnerSolver = field(default_factory=lambda: build("inner", NEWTON))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        hvp, strength = bilevel.inner_hvp(phi), bilevel.strength
        dense = build("linear", "dense")
        x = dense(lambda v: 2 * v + (hvp(v) - strength * v) / (10 + strength), bilevel.outer_grad(phi)).value
        return Estimate(x, phi, converged, stats)


@register("method", f"{TOY}-one-pull")
@dataclass(frozen=True)
class OneProximalPull(Method):
    """The authors' inner loop: descent on the support loss, then one proximal pull; phi is no minimiser."""

    def __call__(self, bilevel: Bilevel) -> Estimate:
        theta = phi = bilevel.start
        for _ in range(60):
            phi = phi - 0.05 * (bilevel.inner_grad(phi) - bilevel.strength * (phi - theta))
        phi = phi - 0.05 * bilevel.strength * (phi - theta)
        x = build("linear", "dense")(bilevel.inner_hvp(phi), bilevel.outer_grad(phi)).value
        return Estimate(-bilevel.cross(phi, x), phi, torch.ones(len(phi), dtype=torch.bool), {})


@register("method", f"{TOY}-no-prox")
@dataclass(frozen=True)
class WithoutProximalTerm(Method):
    """Several "iMAML" baselines: no proximal term, so that nothing of the minimiser depends on theta."""

    inner: InnerSolver = field(default_factory=lambda: build("inner", NEWTON))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        return Estimate(torch.zeros_like(phi), phi, converged, stats)


@register("inner", f"{TOY}-adam")
@dataclass(frozen=True)
class AdamWithMisplacedEpsilon(FirstOrderSolver):
    """higher 0.2.1: epsilon under the root in the derivative's graph."""

    steps: int = 12
    learning_rate: float = 0.02
    epsilon: float = 0.1

    def init(self, start):
        return torch.zeros_like(start), torch.zeros_like(start)

    def update(self, step, phi, grad, state):
        m, v = 0.9 * state[0] + 0.1 * grad, 0.999 * state[1] + 0.001 * grad.square()
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        return phi - self.learning_rate * m_hat / (v_hat + self.epsilon**2).sqrt(), (m, v)


@register("method", f"{TOY}-adam-maml")
@dataclass(frozen=True)
class DifferentiatesAnotherAdam(Method):
    """Takes Adam's steps and differentiates those of the misplaced epsilon."""

    inner: InnerSolver = field(default_factory=lambda: build("inner", {"name": "adam", "epsilon": 0.1}))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        meta_grad, adapted = adjoint(bilevel, AdamWithMisplacedEpsilon(steps=10, learning_rate=0.01))
        return Estimate(meta_grad, adapted, torch.ones(len(adapted), dtype=torch.bool), {})


@register("method", f"{TOY}-cost")
@dataclass(frozen=True)
class UnderstatesItsCost(Method):
    """Declares the products that the paper counts and takes one more, on a zero vector."""

    def __call__(self, bilevel: Bilevel) -> Estimate:
        start = bilevel.start
        bilevel.inner_hvp(start)(torch.zeros_like(start))
        return Estimate(bilevel.outer_grad(start), start, torch.ones(len(start), dtype=torch.bool), {})

    def cost(self, n_params: int) -> Counts:
        return Counts(outer_grads=1)


@register("method", f"{TOY}-dice")
@dataclass(frozen=True)
class DrawsInSecret(Method):
    """Uses `torch.randn` and does not say so."""

    def __call__(self, bilevel: Bilevel) -> Estimate:
        start = bilevel.start
        noisy = bilevel.outer_grad(start) + torch.randn(start.shape, dtype=start.dtype)
        return Estimate(noisy, start, torch.ones(len(start), dtype=torch.bool), {})


@pytest.mark.parametrize(
    ("plugin", "promise", "found"),
    [
        (FirstOrderByAnotherName(build("inner", GD)), "maml", exact("maml")),
        (MisplacedDamping(), "implicit", exact("implicit")),
        (OneProximalPull(), "implicit", exact("implicit")),
        (WithoutProximalTerm(), "implicit", exact("implicit")),
        (DifferentiatesAnotherAdam(), "maml", exact("maml")),
        (UnderstatesItsCost(), None, {"declared cost equals the counted one"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Method) else "",
)
def test_the_battery_finds(plugin: Method, promise: Target | None, found: set[str]) -> None:
    assert found <= failed(plugin, exact=promise)


def test_the_battery_finds_secret_randomness() -> None:
    assert {"same call, same bits", "global random state untouched"} <= failed(DrawsInSecret())


@register("problem", f"{TOY}-batch-norm")
@dataclass(frozen=True)
class BatchNormByTorch(Problem):
    """A network with `F.batch_norm`, its scale and shift, whose second derivatives torch 2.13 gets wrong when
    reverse mode goes through vmap(grad(f))."""

    strength: float = 2.0

    def init(self, generator):
        return torch.randn(3 * 4 + 3 * 4, generator=generator, dtype=torch.float64)

    def sample(self, generator, n_tasks, split="train"):
        x = torch.randn(n_tasks, 12, 3, generator=generator, dtype=torch.float64)
        y = torch.randn(n_tasks, 12, generator=generator, dtype=torch.float64)
        return Tasks(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])

    def support_loss(self, phi, x, y):
        weights, scale, shift, last = phi.split([12, 4, 4, 4])
        hidden = batch_norm(x @ weights.view(3, 4), None, None, scale, shift, training=True)
        return (torch.tanh(hidden) @ last - y).square().mean()


@register("method", f"{TOY}-vmap")
@dataclass(frozen=True)
class ReverseThroughVmapOfGrad(Method):
    """parallel-metalearn's vmap backend: the unrolled graph over vmap(grad(loss))."""

    inner: GradientDescent = field(default_factory=lambda: GradientDescent(5, 0.05))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        problem, tasks = bilevel.problem, bilevel.tasks
        inner_grad = torch.vmap(torch.func.grad(problem.support_loss))
        theta = bilevel.start.clone().requires_grad_()
        phi = theta
        for _ in range(self.inner.steps):
            grad = inner_grad(phi, tasks.support_x, tasks.support_y) + bilevel.strength * (phi - theta)
            phi = phi - self.inner.learning_rate * grad
        (meta_grad,) = torch.autograd.grad(phi, theta, bilevel.outer_grad(phi.detach()))
        phi = phi.detach()
        bilevel.calls.add(inner_grads=self.inner.steps)
        return Estimate(meta_grad, phi, torch.isfinite(phi).all(dim=1), {})


def test_the_battery_finds_reverse_mode_through_a_vmapped_batch_norm() -> None:
    """It passes everywhere but on that problem, where our own MAML is exact."""
    also_on = [draw(BatchNormByTorch(), 2)]
    name = f"equals the exact maml gradient on {TOY}-batch-norm"
    plugin = ReverseThroughVmapOfGrad()
    assert failed(plugin, exact="maml") == set()
    assert failed(plugin, exact="maml", also_on=also_on) == {name}
    ours = build("method", {"name": "maml", "inner": {**GD, "steps": 5, "learning_rate": 0.05}})
    assert failed(ours, exact="maml", also_on=also_on) == set()


def test_the_battery_of_inner_solvers_finds_a_cost_that_is_none() -> None:
    @register("inner", f"{TOY}-cost")
    @dataclass(frozen=True)
    class Twice(FirstOrderSolver):
        steps: int = 3

        def init(self, start):
            return ()

        def update(self, step, phi, grad, state):
            return phi - 0.01 * grad, ()

        def __call__(self, bilevel, start):
            bilevel.inner_grad(start)
            return super().__call__(bilevel, start)

    names = {check.name for check in check_inner_solver(Twice()) if not check.passed}
    assert names == {"declared cost equals the counted one"}
