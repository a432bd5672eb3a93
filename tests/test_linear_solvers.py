"""Every linear solver of the table, and the faults that other implementations have."""

import pytest
import torch

from bench.api import InvalidValueError
from bench.registry import build, names
from bench.testing import check_linear_solver, check_preconditioner
from bench.testing.samples import draws, product, system
from bench.testing.variants import core, variant
from methods.linear import Dense
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


@pytest.mark.parametrize("case", LINEAR_SOLVERS, ids=identify)
def test_a_right_hand_side_of_any_size_in_float32(case: LinearCase) -> None:
    """Its squares overflow or underflow; powers of two, so that nothing else changes."""
    matrix, rhs = (tensor.float() for tensor in system(3.0))
    solver, noise = build("linear", case.table), draws(range(3), rhs)
    wanted = solver(product(matrix), rhs, noise=noise)
    for scale in (2.0**-100, 2.0**100):
        got = solver(product(matrix), scale * rhs, noise=noise)
        torch.testing.assert_close(got.value / scale, wanted.value)
        torch.testing.assert_close(got.stats["residual"], wanted.stats["residual"])
        assert torch.equal(got.converged, wanted.converged)


@pytest.mark.parametrize("name", ["conjugate_gradient", "minres", "gmres", "normal_cg"])
@pytest.mark.parametrize(("factor", "dtype"), [(300, "float16"), (1e20, "float32"), (1e-25, "float32")])
def test_a_multiple_of_the_identity_of_any_size(name: str, factor: float, dtype: str) -> None:
    if (name, dtype) == ("gmres", "float16"):
        pytest.skip("GMRES declines half precision")
    rhs = torch.ones(1, 4, dtype=getattr(torch, dtype))
    solution = build("linear", name)(lambda v: v * factor, rhs)
    torch.testing.assert_close(solution.value * factor, rhs)
    assert solution.converged.all()
    assert solution.stats["residual"].item() <= 1e-3


@pytest.mark.parametrize("name", ["conjugate_gradient", "preconditioned_conjugate_gradient"])
def test_cg_says_so_where_its_inner_products_overflow(name: str) -> None:
    rhs = torch.ones(1, 400).half()
    solution = build("linear", name)(lambda v: v * 300, rhs, noise=draws([0], rhs))
    solved = (solution.value * 300 - rhs).abs().max() < 1e-2
    assert bool(solution.converged) == bool(solved)
    zero = build("linear", name)(torch.zeros_like, rhs, noise=draws([0], rhs))
    assert not zero.converged.any()  # every direction is a null direction


def test_preconditioned_cg_knows_the_curvature_of_any_size() -> None:
    for scale in (2.0**-80, 2.0**80):
        matrix, rhs = (tensor.float() for tensor in system(3.0))
        solver = build("linear", {"name": "preconditioned_conjugate_gradient", "iterations": 8})
        solution = solver(product(scale * matrix), rhs, noise=draws(range(3), rhs))
        assert solution.converged.all()
        seen = solution.stats["smallest_curvature"] / scale
        assert ((seen > 0.3) & (seen < 1)).all()


@pytest.mark.parametrize("case", LINEAR_SOLVERS, ids=identify)
def test_a_system_without_a_solution_is_not_solved(case: LinearCase) -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    matrix = (turn @ torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)) @ turn.T)[None]
    rhs = torch.ones(1, 2, dtype=torch.float64)
    solver = variant(build("linear", case.table), tolerance=1e-3)
    if not isinstance(core(solver), Dense):  # rounding makes the matrix regular, and LU solves it
        solution = solver(product(matrix), rhs, noise=draws([0], rhs))
        assert not solution.converged.any()
    matrix, rhs = system(10.0, singular=True)
    assert not solver(product(matrix), rhs, noise=draws(range(3), rhs)).converged.any()


ITERATIVE = ["conjugate_gradient", "minres", "normal_cg", "neumann", "fixed_point"]


@pytest.mark.parametrize("name", ITERATIVE)
def test_divergence_is_not_convergence(name: str) -> None:
    matrix, rhs = (tensor.bfloat16() for tensor in system(1e3))
    step = {"step": 3.0} if name in ("neumann", "fixed_point") else {}
    solution = build("linear", {"name": name, "iterations": 300, **step})(product(matrix), rhs)
    grown = ~(solution.stats["residual"] <= 1)
    assert not (solution.converged & grown).any()
    if step or name == "minres":
        assert grown.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["neumann", "fixed_point"])
def test_rounding_is_no_negative_curvature(name: str, dtype: torch.dtype) -> None:
    """Run until only rounding, or in half precision only an underflow, is left of the residual."""
    for condition in (3.0, 10.0):
        matrix, rhs = (tensor.to(dtype) for tensor in system(condition))
        table = {"name": name, "step": 1.0, "iterations": 500}
        solution = build("linear", table)(product(matrix), rhs)
        assert (solution.stats["residual"] <= 4 * torch.finfo(dtype).eps).all()
        assert (solution.stats["smallest_curvature"] > 0.5 / condition).all()
        assert solution.converged.all()


def test_a_tolerance_costs_one_product_more() -> None:
    matrix, rhs = system(10.0)
    calls: list[int] = []
    for name in ("conjugate_gradient", "gmres", "normal_cg", "neumann"):
        each, step = (2 if name == "normal_cg" else 1), {"step": 1.0} if name == "neumann" else {}
        solver = build("linear", {"name": name, "iterations": 200, "tolerance": 1e-2, **step})
        solution = solver(lambda v: calls.append(1) or product(matrix)(v), rhs)
        assert len(calls) == each * int(solution.stats["iterations"].max()) + 1
        calls.clear()
        solver(lambda v: calls.append(1) or product(matrix)(v), rhs, start=torch.linalg.solve(matrix, rhs))
        assert len(calls) == 1  # the residual of the start is true already
        calls.clear()
