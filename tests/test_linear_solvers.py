"""Every linear solver of the table, and the faults that other implementations have."""

import pytest
import torch

from bench.api import InvalidValueError
from bench.registry import build, names
from bench.testing import check_linear_solver, check_preconditioner
from bench.testing.samples import draws, product, system
from tests.cases import LINEAR_SOLVERS, PRECONDITIONERS, LinearCase, identify


@pytest.mark.parametrize("case", LINEAR_SOLVERS, ids=identify)
def test_battery(case: LinearCase) -> None:
    checks = check_linear_solver(case.table)
    assert not [c for c in checks if not c.passed]
    assert len(checks) >= 15


@pytest.mark.parametrize("case", [c for c in LINEAR_SOLVERS if c.error], ids=identify)
def test_against_a_dense_solve(case: LinearCase) -> None:
    assert case.error is not None
    for condition, allowed in zip((10.0, 1000.0), case.error, strict=True):
        matrix, rhs = system(condition)
        wanted = torch.linalg.solve(matrix, rhs)
        got = build("linear", case.table)(product(matrix), rhs, noise=draws(range(3), rhs)).value
        error = (got - wanted).norm(dim=1) / wanted.norm(dim=1)
        assert error.max().item() <= allowed


def test_every_registered_linear_solver_has_a_row() -> None:
    ours = {name for name in names("linear") if not name.startswith("toy")}
    assert ours == {case.name for case in LINEAR_SOLVERS}
    ours = {name for name in names("preconditioner") if not name.startswith("toy")}
    assert ours == {case.name for case in PRECONDITIONERS}


@pytest.mark.parametrize("case", PRECONDITIONERS, ids=identify)
def test_preconditioner_battery(case: LinearCase) -> None:
    checks = check_preconditioner(case.table)
    assert not [c for c in checks if not c.passed]
    assert len(checks) >= 20


@pytest.mark.parametrize("name", ["minres", "gmres", "normal_cg"])
def test_indefinite_systems_are_solved(name: str) -> None:
    for condition, allowed in ((10.0, 1e-10), (1000.0, 1e-7)):
        matrix, rhs = system(condition, indefinite=True)
        iterations = 2000 if name == "normal_cg" else 40
        table = {"name": name, "iterations": iterations, "tolerance": 1e-11}
        solution = build("linear", table)(product(matrix), rhs)
        wanted = torch.linalg.solve(matrix, rhs)
        assert solution.converged.all()
        assert ((solution.value - wanted).norm() / wanted.norm()).item() <= allowed


@pytest.mark.parametrize("sketch", ["columns", "gaussian"])
def test_nystrom_is_exact_for_a_low_rank_above_rho(sketch: str) -> None:
    matrix, rhs = system(10.0)
    factor = matrix[:, :, :4]
    matrix = factor @ factor.mT + 2 * torch.eye(12, dtype=matrix.dtype)
    solver = build("linear", {"name": "nystrom", "rank": 6, "rho": 2.0, "sketch": sketch})
    solution = solver(product(matrix), rhs, noise=draws(range(3), rhs))
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, rhs), rtol=1e-9, atol=1e-11)
    assert solution.converged.all()


def test_randomised_parts_ask_for_noise() -> None:
    matrix, rhs = system(3.0)
    for name in ("nystrom", "preconditioned_conjugate_gradient"):
        with pytest.raises(InvalidValueError, match="noise = None"):
            build("linear", name)(product(matrix), rhs)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 8])
def test_cg_is_the_best_point_of_its_krylov_space(iterations: int) -> None:
    """k iterations minimise the A-norm of the error over span(b, .., A^(k-1) b).

    Catches a wrong direction update, and returning an earlier iterate than the last.
    """
    matrix, rhs = system(30.0)
    powers = [rhs]
    for _ in range(iterations - 1):
        powers.append(product(matrix)(powers[-1]))
    basis = torch.linalg.qr(torch.stack(powers, dim=-1)).Q
    small = torch.linalg.solve(basis.mT @ matrix @ basis, (basis.mT @ rhs.unsqueeze(-1)))
    best = (basis @ small).squeeze(-1)
    got = build("linear", {"name": "conjugate_gradient", "iterations": iterations})(product(matrix), rhs)
    torch.testing.assert_close(got.value, best, rtol=1e-9, atol=1e-9)


def test_cg_stops_early_at_the_last_iterate() -> None:
    matrix, rhs = system(30.0)
    solver = build("linear", {"name": "conjugate_gradient", "iterations": 50, "tolerance": 1e-2})
    solution = solver(product(matrix), rhs)
    used = int(solution.stats["iterations"].max())
    assert used < 12
    assert solution.converged.all()
    true = (rhs - product(matrix)(solution.value)).norm(dim=1) / rhs.norm(dim=1)
    assert (true <= 1e-2).all()


def test_cg_tolerance_is_relative() -> None:
    matrix, rhs = system(30.0)
    solver = build("linear", {"name": "conjugate_gradient", "iterations": 50, "tolerance": 1e-6})
    steps = [solver(product(matrix), scale * rhs).stats["iterations"] for scale in (1e-12, 1.0, 1e12)]
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[1], steps[2])


def test_identity_takes_one_iteration() -> None:
    _, rhs = system(3.0)
    for table in (
        {"name": "conjugate_gradient", "iterations": 9, "tolerance": 1e-12},
        {"name": "neumann", "step": 1.0},
    ):
        solution = build("linear", table)(lambda v: v.clone(), rhs)
        torch.testing.assert_close(solution.value, rhs, rtol=1e-14, atol=0)
        assert solution.stats["iterations"].tolist() == [1, 1, 1]


def test_no_product_is_wasted() -> None:
    matrix, rhs = system(10.0)
    calls = []
    apply = product(matrix)
    for name in ("conjugate_gradient", "neumann"):
        calls.clear()
        build("linear", {"name": name, "iterations": 4})(lambda v: calls.append(1) or apply(v), rhs)
        assert len(calls) == 4


def test_indefinite_curvature_is_reported() -> None:
    matrix, rhs = system(10.0, indefinite=True)
    solution = build("linear", {"name": "conjugate_gradient", "iterations": 5})(product(matrix), rhs)
    assert (solution.stats["smallest_curvature"] < 0).all()
    assert not solution.converged.any()


@pytest.mark.parametrize("name", names("linear"))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_undefined_right_hand_side_is_not_solved_by_zero(name: str, value: float) -> None:
    matrix, rhs = system(3.0)
    rhs[1, 2] = value
    solution = build("linear", name)(product(matrix), rhs, noise=draws(range(3), rhs))
    assert not solution.converged[1]
    assert not torch.isfinite(solution.value[1]).all()


def test_cg_in_half_precision_does_not_overflow() -> None:
    matrix, rhs = system(3.0)
    half = (1e3 * rhs).half()  # its square norm is beyond float16
    solution = build("linear", "conjugate_gradient")(product(matrix.half()), half)
    wanted = torch.linalg.solve(matrix, 1e3 * rhs)
    assert ((solution.value - wanted).norm() / wanted.norm()).item() < 0.05
