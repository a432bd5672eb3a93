"""The references against closed forms, dense solves and finite differences, all in float64."""

from dataclasses import dataclass, replace

import pytest
import torch

from bench.api import Bilevel, Declined, FirstOrderSolver, InnerSolver, Problem, Solution
from bench.problems import MLP, LinearRegression, Sinusoid
from bench.reference import MAX_PARAMS, implicit_reference, maml_reference

T = 3


@dataclass(frozen=True)
class Descent(FirstOrderSolver):
    """Every kind of first-order step that the reference has to pull back through."""

    kind: str = "descent"
    steps: int = 6
    rate: float = 0.05

    def init(self, start):
        # A state that depends on the start, and a second one that does not.
        return {"descent": (), "momentum": (0.3 * start,), "adam": (torch.zeros_like(start),) * 2}[self.kind]

    def schedule(self, step):
        return (1 - 0.9 ** (step + 1), 1 - 0.99 ** (step + 1)) if self.kind == "adam" else ()

    def update(self, phi, grad, state, *numbers):
        if self.kind == "descent":
            return phi - self.rate * grad, state
        if self.kind == "momentum":
            velocity = 0.9 * state[0] + grad
            return phi - self.rate * velocity, (velocity,)
        m, v = 0.9 * state[0] + 0.1 * grad, 0.99 * state[1] + 0.01 * grad.square()
        m_hat, v_hat = m / numbers[0], v / numbers[1]
        return phi - self.rate * m_hat / (v_hat.sqrt() + 0.1), (m, v)


@dataclass(frozen=True)
class Unsolved(Problem):
    """A problem without its closed form and with the chosen batching."""

    problem: Problem
    batching: str = "vmap"

    @property
    def strength(self):
        return self.problem.strength

    def init(self, generator):
        return self.problem.init(generator)

    def sample(self, generator, n_tasks, split="train"):
        return self.problem.sample(generator, n_tasks, split)

    def support_loss(self, phi, x, y):
        return self.problem.support_loss(phi, x, y)


def bilevel(problem, seed=0, n_tasks=T):
    generator = torch.Generator().manual_seed(seed)
    theta = problem.init(generator)
    return Bilevel(problem, problem.sample(generator, n_tasks), theta)


def small(strength=1.0):
    return Sinusoid(shots=5, queries=5, strength=strength, network=MLP(hidden=(6,), activation="tanh"))


def relative(a, b):
    return ((a - b).norm(dim=1) / b.norm(dim=1)).max()


def finite_differences(b, adapt, h=1e-5):
    """Central differences of the query loss of adapt(meta), with Richardson's extrapolation."""

    def query_loss(meta):
        at = b.at(meta)
        return at.outer_value(adapt(at))

    columns = []
    for basis in torch.eye(b.meta.shape[0], dtype=torch.float64):
        near, far = (
            (query_loss(b.meta + k * h * basis) - query_loss(b.meta - k * h * basis)) / (2 * k * h)
            for k in (1, 2)
        )
        columns.append((4 * near - far) / 3)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("kind", ["descent", "momentum", "adam"])
@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_maml_is_the_derivative_of_the_steps(kind, batching):
    b = bilevel(Unsolved(small(), batching))
    inner = Descent(kind)
    reference = maml_reference(b, inner)
    assert not reference.missing
    truth = finite_differences(b, lambda at: inner(at, at.start).value, h=1e-4)
    assert relative(reference.value, truth) < 1e-7


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_maml_on_quadratics_is_a_matrix_power(steps):
    problem = LinearRegression(dim=8, support=4)
    b = bilevel(problem)
    inner = Descent(steps=steps)
    eye = torch.eye(8, dtype=torch.float64)
    x = b.tasks.support_x
    hessian = x.mT @ x / x.shape[1] + problem.strength * eye
    # d phi_{k+1} / d theta = (I - rate H) d phi_k / d theta + rate strength I
    contraction, jacobian = eye - inner.rate * hessian, eye.expand(T, 8, 8)
    for _ in range(steps):
        jacobian = contraction @ jacobian + inner.rate * problem.strength * eye
    truth = (jacobian.mT @ b.outer_grad(inner(b, b.start).value).unsqueeze(-1)).squeeze(-1)
    assert relative(maml_reference(b, inner).value, truth) < 1e-13


def test_maml_without_first_order_steps_says_why():
    class Oracle(InnerSolver):
        def __call__(self, bilevel, start):
            raise Declined("must not be asked")

    class Stopping(Descent):
        def __call__(self, bilevel, start):
            return Solution(start, torch.ones(len(start), dtype=torch.bool), {})

    for solver in (Oracle(), Stopping()):
        reference = maml_reference(bilevel(small()), solver)
        assert set(reference.missing) == {0, 1, 2}
        assert "differentiable first-order steps" in reference.missing[0]
        assert reference.value.isnan().all()


def test_maml_that_overflows_or_is_too_large_says_so():
    b = bilevel(LinearRegression(dim=8))
    diverged = maml_reference(b, Descent(steps=400, rate=100.0))
    assert "overflow" in diverged.missing[0]
    assert diverged.value.isnan().all()
    assert "too large" in maml_reference(b, Descent(steps=10**9)).missing[0]


def test_one_diverging_task_leaves_the_others():
    b = bilevel(LinearRegression(dim=8))
    x = b.tasks.support_x.clone()
    x[1] *= 1e5
    spoilt = Bilevel(b.problem, replace(b.tasks, support_x=x), b.meta)
    reference = maml_reference(spoilt, Descent(steps=60))
    assert set(reference.missing) == {1}
    kept = [0, 2]
    torch.testing.assert_close(reference.value[kept], maml_reference(b, Descent(steps=60)).value[kept])


@pytest.mark.parametrize("condition", [6.0, 100.0])
@pytest.mark.parametrize("dim", [50, 600])
@pytest.mark.parametrize("closed", [True, False])
def test_implicit_on_quadratics_is_the_dense_solve(condition, dim, closed):
    problem = LinearRegression(condition=condition, dim=dim)
    b = bilevel(problem)
    reference = implicit_reference(b if closed else bilevel(Unsolved(problem)))
    assert not reference.missing
    x = b.tasks.support_x
    hessian = x.mT @ x / x.shape[1] + problem.strength * torch.eye(dim, dtype=torch.float64)
    solution = torch.linalg.solve(
        hessian, (x.mT @ b.tasks.support_y[..., None] / x.shape[1]).squeeze(-1) + problem.strength * b.meta
    )
    truth = problem.strength * torch.linalg.solve(hessian, b.outer_grad(solution))
    assert relative(reference.value, truth) < 1e-8


def test_implicit_is_the_derivative_of_the_minimiser():
    """By finite differences of the minimiser itself: neither the Hessian nor the implicit theorem enters."""
    b = bilevel(small(strength=4.0))
    reference = implicit_reference(b)
    assert not reference.missing
    first = b.start

    def query_loss(meta):  # plain gradient descent to rounding, from the undisturbed minimiser
        at, phi = b.at(meta), first
        for _ in range(1500):
            grad = at.inner_grad(phi)
            if grad.norm(dim=1).max() < 1e-13:
                return phi, at.outer_value(phi)
            phi = phi - 0.06 * grad
        raise AssertionError(f"gradient descent stops at {grad.norm(dim=1)}")

    first, _ = query_loss(b.meta)
    h, generator = 1e-3, torch.Generator().manual_seed(1)
    v = torch.randn(b.meta.shape, generator=generator, dtype=torch.float64)
    near, far = (
        (query_loss(b.meta + k * h * v)[1] - query_loss(b.meta - k * h * v)[1]) / (2 * k * h)
        for k in (0.1, 0.2)
    )
    torch.testing.assert_close(reference.value @ v, (4 * near - far) / 3, rtol=1e-7, atol=1e-7)


def test_implicit_on_the_sinusoid_network_is_the_dense_solve():
    b = bilevel(Sinusoid(network=MLP(hidden=(25, 25), activation="tanh")), n_tasks=1)
    reference = implicit_reference(b)
    assert not reference.missing
    phi = b.start
    for _ in range(6000):  # independent of the reference's own way to the minimiser
        grad = b.inner_grad(phi)
        if grad.norm() < 1e-12 * b.inner_grad(b.start).norm():
            break
        phi = phi - 0.01 * grad
    assert b.inner_grad(phi).norm() < 1e-11 * b.inner_grad(b.start).norm()
    product = b.inner_hvp(phi)
    hessian = torch.cat([product(row[None]) for row in torch.eye(phi.shape[1], dtype=torch.float64)])
    truth = b.strength * torch.linalg.solve(hessian, b.outer_grad(phi)[0])[None]
    assert relative(reference.value, truth) < 1e-8


def test_too_large_is_missing():
    b = bilevel(LinearRegression(dim=MAX_PARAMS + 1, support=2, query=2), n_tasks=1)
    assert "too large" in implicit_reference(b).missing[0]


def test_the_reference_reaches_what_it_promises():
    """Rounding, not the goal, limits the solution: the steps past the goal are taken."""
    b = bilevel(Unsolved(LinearRegression(dim=600)), n_tasks=1)
    closed = bilevel(LinearRegression(dim=600), n_tasks=1)
    assert relative(implicit_reference(b).value, implicit_reference(closed).value) < 1e-12


def test_references_repeat_bit_by_bit():
    b = bilevel(Sinusoid(network=MLP(hidden=(30, 30), activation="tanh")), n_tasks=1)
    state = torch.get_rng_state()
    first, second = implicit_reference(b).value, implicit_reference(b).value
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
