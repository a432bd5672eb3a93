"""The numbers that theory and independent measurements give on quadratics (condition number 6, n = 50)."""

import pytest
import torch

from bench.registry import build
from bench.testing.samples import draw

PROBLEM = {"name": "linear_regression", "condition": 6.0}
STEP = 1 / 12
# Relative error to the exact implicit gradient of an independent draw of this problem, per inner steps.
MEASURED = {
    "maml": {1: 0.19, 5: 1.7e-2, 20: 2.9e-5},
    "cg5": {1: 0.12, 5: 1.2e-2, 20: 1.4e-3},
    "fomaml": {1: 0.35, 5: 0.35, 20: 0.35},
    "cg1": {1: 0.38, 5: 0.38, 20: 0.38},
    "cg2": {20: 0.10},
}


def implicit(bilevel) -> torch.Tensor:
    """strength (H + strength I)^-1 grad query_loss(phi*), written out."""
    x = bilevel.tasks.support_x
    system = x.mT @ x / x.shape[1] + bilevel.strength * torch.eye(x.shape[2], dtype=x.dtype)
    return bilevel.strength * torch.linalg.solve(system, bilevel.outer_grad(bilevel.inner_solution()))


def error(name: str, steps: int, n_tasks: int = 64) -> float:
    inner = {"name": "gradient_descent", "steps": steps, "learning_rate": STEP}
    if name.startswith("cg"):
        linear = {"name": "conjugate_gradient", "iterations": int(name[2:])}
        method = build("method", {"name": "imaml", "inner": inner, "linear": linear})
    else:
        method = build("method", {"name": name, "inner": inner})
    bilevel = draw(build("problem", PROBLEM), n_tasks)
    truth = implicit(bilevel)
    return ((method(bilevel).meta_grad - truth).norm(dim=1) / truth.norm(dim=1)).median().item()


@pytest.mark.parametrize(("name", "steps"), [(n, k) for n, row in MEASURED.items() for k in row])
def test_within_a_factor_of_two(name: str, steps: int) -> None:
    wanted = MEASURED[name][steps]
    assert wanted / 2 <= error(name, steps) <= wanted * 2


def test_one_cg_iteration_is_worse_than_first_order() -> None:
    assert error("cg1", 20) > error("fomaml", 20)


def test_cg_floors() -> None:
    """More inner steps do not help beyond what the linear solve allows; more iterations do."""
    floors = [error(f"cg{n}", 60, 16) for n in (1, 2, 5, 10)]
    assert floors == sorted(floors, reverse=True)
    for n, floor in zip((1, 2, 5), floors, strict=False):
        assert floor == pytest.approx(error(f"cg{n}", 120, 16), rel=1e-3)
    assert floors[3] < 1e-4


def test_maml_is_the_closed_form_of_its_steps() -> None:
    """d phi_K / d theta = A^K + lambda alpha sum_{j<K} A^j with A = I - alpha (H + lambda I)."""
    bilevel = draw(build("problem", PROBLEM), 5)
    x = bilevel.tasks.support_x
    eye = torch.eye(50, dtype=torch.float64)
    A = eye - STEP * (x.mT @ x / x.shape[1] + bilevel.strength * eye)
    jacobian, term = torch.zeros_like(A), eye.expand_as(A)
    for _ in range(9):
        jacobian = jacobian + STEP * bilevel.strength * term
        term = term @ A
    jacobian = jacobian + term
    estimate = build(
        "method", {"name": "maml", "inner": {"name": "gradient_descent", "steps": 9, "learning_rate": STEP}}
    )(bilevel)
    wanted = (jacobian.mT @ bilevel.outer_grad(estimate.adapted).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(estimate.meta_grad, wanted, rtol=1e-10, atol=1e-12)


def test_imaml_equals_the_dense_implicit_solve() -> None:
    bilevel = draw(build("problem", PROBLEM), 5)
    for linear in ("dense", {"name": "conjugate_gradient", "iterations": 60}):
        method = build("method", {"name": "imaml", "inner": "closed_form", "linear": linear})
        torch.testing.assert_close(method(bilevel).meta_grad, implicit(bilevel), rtol=1e-8, atol=1e-10)
