"""Every method of the table: the battery, its promise, finite differences."""

import pytest
import torch

from bench.api import Bilevel, Declined
from bench.registry import build, names, unavailable
from bench.testing import check_method
from bench.testing.samples import regression, sinusoid
from tests.cases import METHODS, MethodCase, identify


def skip_if_unavailable(case: MethodCase) -> None:
    if reason := unavailable(build("method", case.table)):
        pytest.skip(reason)


@pytest.mark.parametrize("case", METHODS, ids=identify)
def test_battery(case: MethodCase) -> None:
    skip_if_unavailable(case)
    checks = check_method(case.table, exact=case.exact)
    assert not [c for c in checks if not c.passed]
    assert len(checks) >= 15


def directional(bilevel: Bilevel, case: MethodCase, direction: torch.Tensor, h: float) -> torch.Tensor:
    """d/dh of query_loss(phi_K(theta + h direction)) per task, by a fourth-order central difference."""
    inner = build("inner", case.options["inner"])

    def value(shift: float) -> torch.Tensor:
        there = bilevel.at(bilevel.meta + shift * direction)
        return there.outer_value(inner(there, there.start).value)

    return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)


@pytest.mark.parametrize("case", [c for c in METHODS if c.finite_differences], ids=identify)
@pytest.mark.parametrize("sample", [regression, sinusoid])
def test_finite_differences(case: MethodCase, sample) -> None:
    skip_if_unavailable(case)
    bilevel: Bilevel = sample()
    direction = torch.randn(
        bilevel.meta.shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64
    )
    slope = directional(bilevel, case, direction, 1e-4)
    try:
        got = build("method", case.table)(bilevel).meta_grad @ direction
    except Declined as reason:  # the battery knows where it has to run
        pytest.skip(str(reason))
    torch.testing.assert_close(got, slope, rtol=1e-6, atol=1e-9)


def test_every_registered_method_has_a_row() -> None:
    ours = {name for name in names("method") if not name.startswith("toy")}
    assert ours == {case.name for case in METHODS}


def test_no_method_is_second_order_by_name_only() -> None:
    """First-order MAML must differ from MAML: a MAML without second derivatives would not."""
    bilevel = regression()
    maml, fomaml = (build("method", name)(bilevel).meta_grad for name in ("maml", "fomaml"))
    assert ((maml - fomaml).norm() / maml.norm()).item() > 0.05


def test_solver_that_is_no_first_order_one_is_declined() -> None:
    for name in ("maml", "maml-higher"):
        with pytest.raises(Declined, match="hessian_free"):
            build("method", {"name": name, "inner": "hessian_free"})(regression())


def test_authors_code_solves_their_system() -> None:
    """((1 + c) I + H / (damping + strength)) x = query gradient, at their phi, by a dense solve."""
    bilevel = regression()
    method = build(
        "method", {"name": "imaml-authors-code", "learning_rate": 0.05, "steps": 7, "iterations": 40}
    )
    estimate = method(bilevel)
    x = bilevel.tasks.support_x
    hessian = x.mT @ x / x.shape[1]
    theta, phi = bilevel.start, bilevel.start
    for _ in range(7):
        residual = (x @ phi.unsqueeze(-1)).squeeze(-1) - bilevel.tasks.support_y
        phi = phi - 0.05 * (x.mT @ residual.unsqueeze(-1)).squeeze(-1) / x.shape[1]
    phi = phi - 0.05 * bilevel.strength * (phi - theta)
    torch.testing.assert_close(estimate.adapted, phi, rtol=1e-12, atol=1e-12)
    system = 2 * torch.eye(8, dtype=torch.float64) + hessian / (10 + bilevel.strength)
    wanted = torch.linalg.solve(system, bilevel.outer_grad(phi))
    torch.testing.assert_close(estimate.meta_grad, wanted, rtol=1e-9, atol=1e-9)
