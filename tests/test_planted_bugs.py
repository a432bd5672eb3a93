"""The faults of other implementations, planted in copies of our methods: the battery must find each of them.

Those of conjugate gradient are in `test_planted_bugs_linear`.
"""

import random
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy
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
    Solution,
    Target,
    Tasks,
)
from bench.registry import build, describe, register
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

    def schedule(self, step):
        return 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)

    def update(self, phi, grad, state, *numbers):
        m, v = 0.9 * state[0] + 0.1 * grad, 0.999 * state[1] + 0.001 * grad.square()
        m_hat, v_hat = m / numbers[0], v / numbers[1]
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


def good(bilevel: Bilevel) -> Estimate:
    """First-order MAML after the steps of GD."""
    phi, converged, stats = build("inner", GD)(bilevel, bilevel.start)
    return Estimate(bilevel.outer_grad(phi), phi, converged, stats)


def at_theta(bilevel: Bilevel) -> Estimate:
    return good(bilevel)._replace(adapted=bilevel.start)


def adapted_is_nan(bilevel: Bilevel) -> Estimate:
    return good(bilevel)._replace(adapted=bilevel.start * torch.nan)


def never_converged(bilevel: Bilevel) -> Estimate:
    return good(bilevel)._replace(converged=torch.zeros(len(bilevel.tasks), dtype=torch.bool))


def infinite_statistic(bilevel: Bilevel) -> Estimate:
    return good(bilevel)._replace(stats={"iterations": torch.full((len(bilevel.tasks),), torch.inf)})


def one_statistic_for_all(bilevel: Bilevel) -> Estimate:
    return good(bilevel)._replace(stats={"iterations": torch.tensor(3.0)})


def a_number_for_a_statistic(bilevel: Bilevel) -> Estimate:
    return good(bilevel)._replace(stats={"iterations": 3})  # type: ignore[dict-item]


def averages_over_outer_steps(bilevel: Bilevel) -> Estimate:
    """Momentum of the outer loop, inside the estimate."""
    estimate = good(bilevel)
    before = bilevel.memory.get("average", estimate.meta_grad)
    bilevel.memory["average"] = 0.5 * (before + estimate.meta_grad)
    return estimate._replace(meta_grad=bilevel.memory["average"])


def reads_what_others_left(bilevel: Bilevel) -> Estimate:
    """Takes a memory that an earlier call handed on for one of its own making."""
    estimate = good(bilevel)
    other = bilevel.memory.setdefault("start", bilevel.start)
    return estimate._replace(meta_grad=bilevel.outer_grad(estimate.adapted + bilevel.start - other))


def counts_from_zero(bilevel: Bilevel) -> Estimate:
    for name in bilevel.calls.as_dict():
        setattr(bilevel.calls, name, 0)
    return good(bilevel)


def own_counter(bilevel: Bilevel) -> Estimate:
    bilevel.calls = Counts()
    return good(bilevel)


def takes_its_calls_back(bilevel: Bilevel) -> Estimate:
    estimate = good(bilevel)
    bilevel.calls.inner_grads = min(bilevel.calls.inner_grads, 12)
    return estimate


def draws_from_python(bilevel: Bilevel) -> Estimate:
    """Seen in a statistic only."""
    return good(bilevel)._replace(stats={"chance": torch.full((len(bilevel.tasks),), random.random())})


def draws_from_numpy(bilevel: Bilevel) -> Estimate:
    numpy.random.seed(0)
    return good(bilevel)


@register("method", f"{TOY}-wrapped")
@dataclass(frozen=True)
class Wrapped(Method):
    """First-order MAML, altered by the function of that name here."""

    change: str = "good"
    inner: InnerSolver = field(default_factory=lambda: build("inner", GD))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        return globals()[self.change](bilevel)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (good, set()),
        (at_theta, {"adapted is what its inner solver returns"}),
        (adapted_is_nan, {"finite", "adapted is what its inner solver returns"}),
        (never_converged, {"says of some run that it converged"}),
        (infinite_statistic, {"statistics are finite"}),
        (one_statistic_for_all, {"statistics are per task"}),
        (a_number_for_a_statistic, {"statistics are per task"}),
        (averages_over_outer_steps, {"an earlier call does not show in the result"}),
        (reads_what_others_left, {"an earlier call does not show in the result"}),
        (counts_from_zero, {"adds its calls to those counted before"}),
        (own_counter, {"adds its calls to those counted before"}),
        (takes_its_calls_back, {"adds its calls to those counted before"}),
        (draws_from_python, {"global random state untouched"}),
        (draws_from_numpy, {"global random state untouched"}),
    ],
    ids=lambda x: x.__name__ if callable(x) else "",
)
def test_the_battery_finds_in_a_method(change, found: set[str]) -> None:
    assert failed(Wrapped(change.__name__)) == found


@register("method", f"{TOY}-scaled")
@dataclass(frozen=True)
class Scaled(Method):
    """Off by a factor."""

    method: Method = field(default_factory=lambda: build("method", "imaml"))
    factor: float = 1.0
    inner: InnerSolver = field(default_factory=lambda: build("inner", GD))
    limit: ClassVar[Target | None] = "implicit"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        estimate = replace(self.method, inner=self.inner, linear=build("linear", "dense"))(bilevel)
        return estimate._replace(meta_grad=self.factor * estimate.meta_grad)


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.00001, False)])
def test_the_battery_finds_a_factor_in_a_limit(factor: float, right: bool) -> None:
    limit = "tends to the exact implicit gradient as its parts converge"
    assert failed(Scaled(factor=factor)) == (set() if right else {limit})


@register("method", f"{TOY}-noisy")
@dataclass(frozen=True)
class Noisy(Method):
    """Exact MAML and noise, and a factor."""

    factor: float = 1.0
    inner: InnerSolver = field(default_factory=lambda: build("inner", GD))
    stochastic: ClassVar[bool] = True
    unbiased: ClassVar[Target | None] = "maml"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        estimate = build("method", {"name": "maml", "inner": describe(self.inner)})(bilevel)
        return estimate._replace(meta_grad=self.factor * estimate.meta_grad * (1 + 0.5 * bilevel.noise(0)))


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.02, False)])
def test_the_battery_finds_a_factor_in_a_mean(factor: float, right: bool) -> None:
    assert failed(Noisy(factor)) == (set() if right else {"mean over 2000 seeds is exact maml"})


@register("method", f"{TOY}-fault")
@dataclass(frozen=True)
class FaultIsKnown(Method):
    """iMAML by CG of which it is said that it is wrong; ``mended`` it is not, ``broken`` it is no number."""

    mended: bool = False
    broken: bool = False
    inner: InnerSolver = field(default_factory=lambda: build("inner", GD))
    limit: ClassVar[Target | None] = "implicit"

    def known_fault(self) -> str:
        return "some library 1.0 halves it"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        estimate = Scaled(factor=1.0 if self.mended else 0.5, inner=self.inner)(bilevel)
        return estimate._replace(meta_grad=estimate.meta_grad * (torch.nan if self.broken else 1))


def test_a_known_fault_passes_with_its_error_as_long_as_it_shows() -> None:
    checks = check_method(FaultIsKnown())
    assert all(check.passed for check in checks)
    (limit,) = [check for check in checks if check.name.startswith("tends to")]
    assert limit.detail.startswith("known fault: some library 1.0 halves it; relative error 5.0e-01")
    assert failed(FaultIsKnown(mended=True)) == {"the known fault still shows"}


def test_a_known_fault_excuses_nothing_else() -> None:
    assert {"finite", "one task with one shot is finite"} <= failed(FaultIsKnown(broken=True))


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

        def update(self, phi, grad, state):
            return phi - 0.01 * grad, ()

        def __call__(self, bilevel, start):
            bilevel.inner_grad(start)
            return super().__call__(bilevel, start)

    names = {check.name for check in check_inner_solver(Twice()) if not check.passed}
    assert names == {"declared cost equals the counted one"}


def test_the_battery_of_inner_solvers_finds_a_rule_that_is_not_the_solvers() -> None:
    """An update that looks at the number of steps names no kernel by a solver with another number."""

    @register("inner", f"{TOY}-rule")
    @dataclass(frozen=True)
    class Shrinking(FirstOrderSolver):
        steps: int = 3

        def rule(self):
            return Shrinking(1)

        def init(self, start):
            return ()

        def update(self, phi, grad, state):
            return phi - 0.03 / self.steps * grad, ()

    names = {check.name for check in check_inner_solver(Shrinking()) if not check.passed}
    assert names == {"its rule takes the same steps"}


def test_the_battery_of_inner_solvers_finds_a_tolerance_that_is_not_kept() -> None:
    @register("inner", f"{TOY}-says-yes")
    @dataclass(frozen=True)
    class SaysYes(InnerSolver):
        steps: int = 12
        tolerance: float = 1e-6

        def __call__(self, bilevel, start):
            solution = GradientDescent(self.steps, 0.02)(bilevel, start)
            return solution._replace(converged=torch.ones_like(solution.converged))

    names = {check.name for check in check_inner_solver(SaysYes()) if not check.passed}
    met = "converged means that the tolerance is met"
    assert names == {met, f"{met}, after one step"}


def test_the_battery_of_inner_solvers_finds_a_start_at_rest_that_never_converges() -> None:
    @register("inner", f"{TOY}-restless")
    @dataclass(frozen=True)
    class Restless(InnerSolver):
        def __call__(self, bilevel, start):
            first = bilevel.inner_grad(start).norm(dim=1)
            phi = GradientDescent(400, 0.1)(bilevel, start).value
            left = bilevel.inner_grad(phi).norm(dim=1)
            return Solution(phi, left < 1e-6 * first, {})

    names = {check.name for check in check_inner_solver(Restless()) if not check.passed}
    assert names == {"converged where every gradient is zero"}
