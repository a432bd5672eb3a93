"""Each approximate estimator against its own formula, written out with dense matrices or differences."""

import itertools

import pytest
import torch

from bench.api import Bilevel, Declined
from bench.reference import implicit_reference, maml_reference
from bench.registry import build, is_stochastic
from bench.testing.samples import regression, sinusoid

RATE = 0.03
EYE = torch.eye(8, dtype=torch.float64)


def descent(steps: int) -> dict:
    return {"name": "gradient_descent", "steps": steps, "learning_rate": RATE}


CG = {"name": "conjugate_gradient", "iterations": 50}
LONG = {"name": "momentum", "steps": 400, "learning_rate": 0.02, "momentum": 0.8}


def method(name: str, **fields):
    return build("method", {"name": name, **fields})


def hessian(bilevel: Bilevel) -> torch.Tensor:
    """Of the support loss, [T, P, P]."""
    x = bilevel.tasks.support_x
    return x.mT @ x / x.shape[1]


def apply(matrix: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (matrix @ v.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("last", [1, 3, 7])
def test_truncated_is_the_sum_over_its_last_steps(last: int) -> None:
    """sum_{j < last} A^j rate strength grad query_loss, on a quadratic: A is the same in every step."""
    bilevel = regression()
    got = method("truncated-maml", inner=descent(9), last=last)(bilevel)
    A = EYE - RATE * (hessian(bilevel) + bilevel.strength * EYE)
    query = bilevel.outer_grad(got.adapted)
    wanted, power = torch.zeros_like(query), query
    for _ in range(last):
        wanted = wanted + RATE * bilevel.strength * power
        power = apply(A, power)
    torch.testing.assert_close(got.meta_grad, wanted, rtol=1e-10, atol=1e-12)
    late = method("truncated-maml", inner=descent(9), unroll_from=9 - last)(bilevel)
    assert torch.equal(late.meta_grad, got.meta_grad)


def test_truncated_over_all_steps_is_maml_on_a_curved_problem() -> None:
    bilevel = sinusoid()
    whole = method("maml", inner=descent(5))(bilevel).meta_grad
    for fields in ({"last": 5}, {"last": 50}, {"last": None, "unroll_from": 0}):
        assert torch.equal(method("truncated-maml", inner=descent(5), **fields)(bilevel).meta_grad, whole)


def test_one_step_of_gradient_descent_is_first_order_maml_at_another_length() -> None:
    bilevel = sinusoid()
    got = method("one-step", inner=descent(6))(bilevel).meta_grad
    first_order = method("fomaml", inner=descent(6))(bilevel).meta_grad
    torch.testing.assert_close(got, RATE * bilevel.strength * first_order, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inner", ["adam", "nesterov", "momentum"])
def test_one_step_is_the_derivative_of_the_last_step(inner: str) -> None:
    """d/d theta query_loss(update(phi, grad G(phi, theta))), iterate and state held, by autograd."""
    bilevel = sinusoid()
    solver = build("inner", {"name": inner, "steps": 4, "learning_rate": 0.01})
    phi, state = bilevel.start, solver.init(bilevel.start)
    for step in range(3):
        phi, state = solver.advance(bilevel, solver, phi, state, solver.schedule(step))
    theta = bilevel.start.clone().requires_grad_()
    support = bilevel.inner_grad(phi) - bilevel.strength * (phi - bilevel.start)
    new, _ = solver.update(phi, support + bilevel.strength * (phi - theta), state, *solver.schedule(3))
    (wanted,) = torch.autograd.grad(new, theta, bilevel.outer_grad(new.detach()))
    table = {"name": inner, "steps": 4, "learning_rate": 0.01}
    torch.testing.assert_close(method("one-step", inner=table)(bilevel).meta_grad, wanted)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_binomial_drops_products_of_more_than_its_order(order: int) -> None:
    """All ordered products of the step Jacobians c I - a H_k, written out for four steps."""
    steps, bilevel = 4, sinusoid(1)
    got = method("binomial-maml", inner=descent(steps), order=order)(bilevel)
    phi, path = bilevel.start, []
    size = phi.shape[1]
    for _ in range(steps):
        path.append(torch.cat([bilevel.inner_hvp(phi)(e[None]) for e in torch.eye(size, dtype=phi.dtype)]))
        phi = phi - RATE * bilevel.inner_grad(phi)
    eye, strength = torch.eye(size, dtype=phi.dtype), bilevel.strength
    support = [h - strength * eye for h in path]
    query, shift = bilevel.outer_grad(phi)[0], 1 - RATE * strength

    def suffix(first: int) -> torch.Tensor:
        total = torch.zeros_like(query)
        numbers = range(first, steps)
        for n in range(min(order, len(numbers)) + 1):
            for chosen in itertools.combinations(numbers, n):
                term = query * shift ** (len(numbers) - n)
                for k in reversed(chosen):
                    term = -RATE * support[k] @ term
                total = total + term
        return total

    wanted = suffix(0) + RATE * strength * sum(suffix(k + 1) for k in range(steps))
    torch.testing.assert_close(got.meta_grad[0], wanted, rtol=1e-9, atol=1e-11)


def test_binomial_error_falls_with_its_order() -> None:
    bilevel = sinusoid()
    inner = {"name": "gradient_descent", "steps": 8, "learning_rate": 0.005}
    exact = maml_reference(bilevel, build("inner", inner)).value
    errors = [
        (method("binomial-maml", inner=inner, order=n)(bilevel).meta_grad - exact).norm().item()
        for n in range(9)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10 * exact.norm()


@pytest.mark.parametrize("sample", [regression, sinusoid])
@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"name": "fo-b-maml"}, 1e-6),
        ({"name": "fo-b-maml", "difference": "forward"}, 1e-4),
        ({"name": "contrastive", "nudge": 0.0}, 1e-4),
    ],
    ids=["symmetric", "forward", "contrastive"],
)
def test_differences_of_converged_solves_are_the_implicit_gradient(sample, fields, allowed) -> None:
    bilevel = sample()
    exact = implicit_reference(bilevel).value
    got = build("method", {"inner": LONG, **fields})(bilevel).meta_grad
    assert ((got - exact).norm(dim=1) / exact.norm(dim=1)).max().item() < allowed


def test_difference_error_falls_with_its_nudge_at_the_promised_rate() -> None:
    bilevel = sinusoid()
    exact = implicit_reference(bilevel).value

    def error(nudge: float, difference: str) -> float:
        got = method("fo-b-maml", inner=LONG, nudge=nudge, difference=difference)(bilevel).meta_grad
        return (got - exact).norm().item()

    assert error(0.2, "forward") / error(0.1, "forward") == pytest.approx(2, rel=0.2)
    assert error(0.2, "symmetric") / error(0.1, "symmetric") == pytest.approx(4, rel=0.2)


def test_contrastive_carries_the_error_of_an_unfinished_free_phase() -> None:
    bilevel = regression()
    exact = implicit_reference(bilevel).value

    def error(name: str) -> float:
        got = method(name, inner=descent(12), nudge=1e-3)(bilevel).meta_grad
        return ((got - exact).norm() / exact.norm()).item()

    assert error("contrastive") > 10 * error("fo-b-maml")


@pytest.mark.parametrize("inner", ["lbfgs", "armijo"])
@pytest.mark.parametrize("sample", [regression, sinusoid])
def test_the_automatic_nudge_of_contrastive_stands_above_the_tolerance_of_its_solver(sample, inner) -> None:
    """A nudge near the dtype's rounding divides by itself what the free phase left undone."""
    bilevel = sample()
    exact = implicit_reference(bilevel).value
    solver = {"name": inner, "steps": 500, "tolerance": 1e-5}
    got = method("contrastive", inner=solver, nudge=0.0)(bilevel).meta_grad
    assert ((got - exact).norm() / exact.norm()).item() < 0.02


@pytest.mark.parametrize("name", ["fo-b-maml", "contrastive"])
def test_a_nudged_closed_form_is_declined_for_its_nudge(name: str) -> None:
    with pytest.raises(Declined, match="nudged"):
        method(name, inner="closed_form")(regression())


def test_a_nudged_product_counts_its_query_gradient() -> None:
    counts = []
    for product in ("inner_hvp", "inner_grad_and_hvp"):
        bilevel = sinusoid()
        nudged, phi = bilevel.nudged(torch.full((2,), 0.1, dtype=torch.float64)), bilevel.start
        if product == "inner_hvp":
            nudged.inner_hvp(phi)(phi)
        else:
            nudged.inner_grad_and_hvp(phi, phi)
        counts.append(bilevel.calls.as_dict())
    assert counts[0] == counts[1]
    assert counts[0]["outer_grads"] == 1


def test_a_nudged_problem_is_the_sum_of_both_losses() -> None:
    bilevel = sinusoid()
    nudge = torch.tensor([0.3, -0.2], dtype=torch.float64)
    nudged, phi = bilevel.nudged(nudge), bilevel.start + 0.1
    value = bilevel.inner_value(phi) + nudge * bilevel.outer_value(phi)
    torch.testing.assert_close(nudged.inner_value(phi), value)
    leaf = phi.clone().requires_grad_()
    total = (bilevel.inner_value(leaf) + nudge * bilevel.outer_value(leaf)).sum()
    (grad,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(nudged.inner_grad(phi), grad)
    v, h = torch.ones_like(phi), 1e-5
    slope = (nudged.inner_grad(phi + h * v) - nudged.inner_grad(phi - h * v)) / (2 * h)
    for product in (nudged.inner_hvp(phi)(v), nudged.inner_grad_and_hvp(phi, v)[1]):
        torch.testing.assert_close(product, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("inner", ["gradient_descent", "adam", "nesterov"])
def test_forward_gradient_is_the_slope_along_its_directions(inner: str) -> None:
    bilevel = sinusoid()
    table = {"name": inner, "steps": 5, "learning_rate": 0.01}
    got = method("forward-gradient", inner=table, directions=1)(bilevel).meta_grad
    exact = maml_reference(bilevel, build("inner", table)).value
    v = bilevel.noise(0).sign()
    torch.testing.assert_close(got, (exact * v).sum(dim=1, keepdim=True) * v, rtol=1e-9, atol=1e-11)


def test_noise_follows_the_task_and_not_its_place() -> None:
    bilevel = regression()
    assert torch.equal(bilevel.take([2, 0]).noise(3), bilevel.noise(3)[[2, 0]])
    assert not torch.equal(bilevel.noise(3), bilevel.noise(4))
    assert torch.equal(bilevel.to(torch.float32).noise(1), bilevel.noise(1).float())
    assert is_stochastic(method("forward-gradient"))
    assert is_stochastic(method("imaml", linear="nystrom"))
    assert not is_stochastic(method("imaml"))


def test_no_prox_solves_as_though_its_minimiser_were_that_of_g() -> None:
    bilevel = regression()
    got = method("imaml-no-prox", steps=7, learning_rate=RATE, linear="dense")(bilevel)
    H, phi = hessian(bilevel), bilevel.start
    for _ in range(7):
        residual = apply(bilevel.tasks.support_x, phi) - bilevel.tasks.support_y
        phi = phi - RATE * apply(bilevel.tasks.support_x.mT, residual) / residual.shape[1]
    torch.testing.assert_close(got.adapted, phi, rtol=1e-12, atol=1e-12)
    wanted = torch.linalg.solve(EYE + H / bilevel.strength, bilevel.outer_grad(phi))
    torch.testing.assert_close(got.meta_grad, wanted, rtol=1e-9, atol=1e-12)


def test_warm_start_needs_fewer_iterations_after_a_small_outer_step() -> None:
    linear = {"name": "conjugate_gradient", "iterations": 100, "tolerance": 1e-8}
    estimator = method("imaml-warm-start", inner=LONG, linear=linear)
    bilevel = sinusoid()
    memory: dict[str, torch.Tensor] = {}

    def iterations(meta: torch.Tensor) -> int:
        there = Bilevel(bilevel.problem, bilevel.tasks, meta, memory=memory)
        estimate = estimator(there)
        cold = method("imaml", inner=LONG, linear=linear)(there)
        torch.testing.assert_close(estimate.meta_grad, cold.meta_grad, rtol=1e-6, atol=1e-9)
        return int(estimate.stats["linear_iterations"].max())

    first = iterations(bilevel.meta)
    again = iterations(bilevel.meta)
    moved = iterations(bilevel.meta + 1e-5)
    assert first > 2
    assert again == 0
    assert 0 < moved < first


def test_warm_start_forgets_a_solution_that_is_not_finite() -> None:
    bilevel, estimator = regression(), method("imaml-warm-start", linear={**CG, "tolerance": 1e-10})
    cold = estimator(regression()).meta_grad
    estimator(bilevel)
    (key,) = bilevel.memory
    bilevel.memory[key][1] = torch.nan
    again = estimator(bilevel)
    torch.testing.assert_close(again.meta_grad, cold)
    iterations = again.stats["linear_iterations"].tolist()
    assert iterations[1] > 0  # the others still start where they were
    assert iterations[0] == iterations[2] == 0


def test_repeated_problems_count_every_point() -> None:
    bilevel = sinusoid()
    many = bilevel.repeat(3)
    points = torch.cat([bilevel.start + i for i in range(3)])
    got = many.inner_grad(points)
    assert bilevel.calls.inner_grads == 3
    for i in range(3):
        torch.testing.assert_close(got[2 * i : 2 * i + 2], bilevel.inner_grad(bilevel.start + i))
