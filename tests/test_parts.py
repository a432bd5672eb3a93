"""Inner solvers, curvatures and problems of the table; inner optimisers against torch's own."""

from dataclasses import replace

import pytest
import torch

from bench.api import Bilevel
from bench.reference import maml_reference
from bench.registry import build, describe, names
from bench.testing import CHECKS
from bench.testing.samples import regression, sinusoid
from tests.cases import PARTS, PartCase, identify


@pytest.mark.parametrize("case", PARTS, ids=identify)
def test_battery(case: PartCase) -> None:
    assert not [c for c in CHECKS[case.kind](case.table) if not c.passed]


@pytest.mark.parametrize("kind", ["inner", "curvature"])
def test_every_registered_part_has_a_row(kind: str) -> None:
    ours = {name for name in names(kind) if not name.startswith("toy")}
    assert ours == {case.name for case in PARTS if case.kind == kind}


@pytest.mark.parametrize(
    ("table", "optimizer"),
    [
        ({"name": "gradient_descent"}, lambda p: torch.optim.SGD(p, lr=0.03)),
        ({"name": "momentum", "momentum": 0.7}, lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.7)),
        ({"name": "adam", "beta1": 0.8}, lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.8, 0.999))),
        ({"name": "adam", "beta1": 0.0}, lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.0, 0.999))),
    ],
    ids=lambda x: x["name"] if isinstance(x, dict) else "",
)
def test_first_order_solvers_take_torch_optim_steps(table, optimizer) -> None:
    bilevel = sinusoid()
    phi = torch.nn.Parameter(bilevel.start.clone())
    steps = optimizer([phi])
    for _ in range(8):
        phi.grad = bilevel.inner_grad(phi.detach())
        steps.step()
    solver = build("inner", {**table, "steps": 8, "learning_rate": 0.03})
    torch.testing.assert_close(solver(bilevel, bilevel.start).value, phi.detach(), rtol=1e-12, atol=1e-14)


def test_adam_with_a_parameter_that_is_dead_on_the_support_set() -> None:
    """Its gradient is exactly zero at every step: 1 / epsilon must not get into the meta-gradient."""
    bilevel = regression()
    dead = bilevel.tasks.support_x.clone()
    dead[:, :, 0] = 0
    bilevel = Bilevel(bilevel.problem, replace(bilevel.tasks, support_x=dead), bilevel.meta)
    inner = build("inner", {"name": "adam", "steps": 10, "learning_rate": 0.05})

    def outer(meta: torch.Tensor) -> torch.Tensor:
        there = bilevel.at(meta)
        return there.outer_value(inner(there, there.start).value)

    h = 1e-6
    units = torch.eye(8, dtype=torch.float64)
    slopes = torch.stack(
        [(outer(bilevel.meta + h * e) - outer(bilevel.meta - h * e)) / (2 * h) for e in units], dim=1
    )
    assert slopes[:, 0].abs().min() > 1e-3  # alive on the query set
    for backward in ("adjoint", "unrolled", "checkpointed"):
        method = build("method", {"name": "maml", "inner": describe(inner), "backward": backward})
        torch.testing.assert_close(method(bilevel).meta_grad, slopes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maml_reference(bilevel, inner).value, slopes, rtol=1e-5, atol=1e-6)


def test_hessian_free_meets_its_tolerance_or_says_no() -> None:
    bilevel = sinusoid()
    first = bilevel.inner_grad(bilevel.start).norm(dim=1)
    for steps in (1, 60):
        solution = build("inner", {"name": "hessian_free", "steps": steps, "tolerance": 1e-8})(
            bilevel, bilevel.start
        )
        left = bilevel.inner_grad(solution.value).norm(dim=1) / first
        assert torch.equal(solution.converged, left <= 1e-8)
    assert solution.converged.all()


def test_finite_difference_curvature_error_falls_with_the_square_of_its_step() -> None:
    bilevel = sinusoid()
    phi = bilevel.start
    v = torch.randn(phi.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = bilevel.inner_hvp(phi)(v)
    errors = []
    for epsilon in (4e-3, 2e-3, 1e-3):
        curvature = build("curvature", {"name": "finite_difference", "epsilon": epsilon})
        errors.append((curvature(bilevel, phi)(v) - exact).norm().item())
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5


def test_closed_form_declines_without_a_formula() -> None:
    from bench.api import Declined

    with pytest.raises(Declined, match="sinusoid"):
        build("inner", "closed_form")(sinusoid(), sinusoid().start)
