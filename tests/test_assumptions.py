"""The pass `assumptions`: planted violations are found, and none where there is none; numbers are right."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse.linalg
import scipy.stats
import torch
from torch import Tensor

from bench import inputs
from bench.api import Bilevel, Method, Problem, Tasks
from bench.assumptions import ASSUMPTIONS, observe
from bench.assumptions.path import iterates
from bench.assumptions.pieces import piece
from bench.assumptions.quotients import KINK, quotient
from bench.assumptions.spectrum import Operator, extremes, nearest_to_zero
from bench.cells import Cell, cell_id
from bench.cli.assumptions import assumption_lines
from bench.inputs import Prepared
from bench.record.shape import shape_fault
from bench.registry import build, describe
from bench.run import run_cell
from bench.testing.samples import draw, regression, sinusoid

QUOTIENTS = ("outer_lipschitz", "outer_smooth", "inner_smooth", "hessian_lipschitz")
STEPS = 40


@dataclass(frozen=True)
class Planted(Problem):
    """Losses of phi alone: the first row of ``support_y`` is what a quadratic has as its curvatures."""

    loss: str = "quadratic"
    strength: float = 1.0

    def init(self, generator) -> Tensor:
        raise NotImplementedError

    def sample(self, generator, n_tasks, split="train"):
        raise NotImplementedError

    def support_loss(self, phi, x, y) -> Tensor:
        smooth = 0.5 * (y[0] * phi.square()).sum() - (x[0] * phi).sum()
        if self.loss == "kink":  # G has its minimum where the first coordinate is 0
            return smooth + 3 * phi[0].abs()
        if self.loss == "relu":  # the same by a unit of ReLU
            return smooth + 6 * torch.relu(phi[0]) - 3 * phi[0]
        if self.loss == "curvature jumps":
            return smooth + torch.relu(phi[0]).square()
        return smooth

    def query_loss(self, phi, x, y) -> Tensor:
        if self.loss == "discontinuous":
            return phi.square().sum() + torch.where(phi[1] > 0.31, 2.0, 0.0)
        return 0.5 * (phi - 0.3).square().sum()


def planted(
    loss: str, curvatures: list[float], strength: float = 1.0, rate: float = 0.1, steps: int = STEPS
) -> Prepared:
    """Two tasks; without a kink G has its minimum at (curvatures + strength)^-1 (x + strength meta)."""
    n = len(curvatures)
    y = torch.tensor(curvatures, dtype=torch.float64).expand(2, 1, n)
    x = torch.linspace(0.2, 1.5, n, dtype=torch.float64).repeat(2, 1, 1)
    tasks = Tasks(x, y, x, y)
    inner = {"name": "gradient_descent", "steps": steps, "learning_rate": rate}
    method = build("method", {"name": "imaml", "inner": inner})
    meta = torch.full((n,), 0.1, dtype=torch.float64)
    return Prepared(Planted(loss, strength), method, tasks, meta, (11, 12), 2)


def seen(cell: Prepared, **options) -> dict:
    return observe(cell, cell.bilevel(), cell.run(), **options)


def violations(found: dict) -> set[str]:
    """The assumptions that are violated by every task at some point; none is by one task only."""
    each = [
        {name for name, tasks in found["violated"].items() if any(tasks[task])}
        for task in range(len(found["violated"]["curvature"]))
    ]
    assert all(one == each[0] for one in each)
    return each[0]


def test_a_strongly_convex_smooth_problem_violates_nothing() -> None:
    found = seen(planted("quadratic", [0.5, 1.0, 2.0, 3.0]))
    assert violations(found) == set()
    unknown = {name for name, tasks in found["violated"].items() if tasks[0][-1] is None}
    assert unknown == set()
    np.testing.assert_allclose(found["sizes"]["smallest"], 1.5, rtol=1e-12)
    np.testing.assert_allclose(found["sizes"]["largest"], 4.0, rtol=1e-12)
    np.testing.assert_allclose([row[-1] for row in found["sizes"]["condition"]], 4.0 / 1.5, rtol=1e-12)
    np.testing.assert_allclose(found["sizes"]["hessian_lipschitz.constant"], 0.0, atol=1e-12)


def test_an_indefinite_quadratic_is_told_with_its_eigenvalues() -> None:
    cell = planted("quadratic", [-1.7, -1.2, 0.5, 2.0])
    found = seen(cell)
    assert {"strongly_convex", "stationary"} <= violations(found)
    assert violations(found) <= {"strongly_convex", "stationary", "curvature"}
    np.testing.assert_allclose(found["sizes"]["smallest"], -0.7, rtol=1e-12)
    np.testing.assert_allclose(found["sizes"]["largest"], 3.0, rtol=1e-12)
    np.testing.assert_allclose([row[-1] for row in found["sizes"]["condition"]], 3.0 / 0.2, rtol=1e-12)
    curvature = cell.run().stats["linear_smallest_curvature"]
    assert [row[-1] for row in found["violated"]["curvature"]] == (curvature <= 0).tolist()


def test_a_singular_system_is_not_invertible() -> None:
    found = seen(planted("quadratic", [-1.0, 0.5, 2.0]))
    assert {"invertible", "strongly_convex"} <= violations(found)


@pytest.mark.parametrize("loss", ["kink", "relu"])
def test_a_kink_at_the_solution_is_found(loss: str) -> None:
    """Descent goes to and fro across the kink, so phi is not stationary; the Hessian itself does not jump."""
    found = seen(planted(loss, [0.5, 1.0, 2.0]))
    assert violations(found) == {"inner_smooth", "one_piece", "stationary"}
    last = [row[-1] for row in found["violated"]["inner_smooth"]]
    assert last == [True, True]
    for slope in found["sizes"]["inner_smooth.slope"]:
        assert slope[-1] == pytest.approx(-1, abs=1e-3)
    assert [row[-1] for row in found["sizes"]["decisions"]] == [1.0, 1.0]


def test_a_jump_of_the_hessian_is_no_kink_of_the_gradient() -> None:
    cell = planted("curvature jumps", [0.5, 1.0, 2.0])
    cell = replace(cell, meta=torch.tensor([-0.1, 0.1, 0.1], dtype=torch.float64))
    found = seen(cell, points=STEPS + 1)  # every step, so that the one across 0 is there
    assert violations(found) == {"hessian_lipschitz", "one_piece"}


def test_a_discontinuous_outer_loss_is_not_lipschitz() -> None:
    found = seen(planted("discontinuous", [0.5, 1.0, 2.0]), points=STEPS + 1)
    assert violations(found) == {"outer_lipschitz"}


def test_quotients_by_hand() -> None:
    start, end = torch.tensor([[-1.0], [-1.0], [-1.0]]).double(), torch.tensor([[1.3], [1.3], [1.3]]).double()
    functions = {
        "jump": (lambda z: (z > 0.2).double(), -1.0, 1.0),
        "root": (lambda z: (z + 1).abs().sqrt(), -0.5, None),
        "absolute": (lambda z: (z - 0.2).abs(), 0.0, None),
        "square": (torch.square, 0.0, None),
        "constant": (torch.ones_like, math.nan, 0.0),
    }
    for name, (function, slope, jump) in functions.items():
        found = quotient(function, start, end)
        np.testing.assert_allclose(found.slope, slope, atol=2e-2, err_msg=name)
        if jump is not None:
            np.testing.assert_allclose(found.jump, jump, rtol=1e-12)
    assert KINK == -0.5
    steep = quotient(torch.square, start, end)
    np.testing.assert_allclose(steep.constant, 2.6, rtol=1e-5)  # the largest slope on the segment, at its end


def test_a_smooth_function_of_any_scale_has_no_kink_and_noise_makes_none() -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    for length in (10.0, 1e-2, 1e-5):
        end = start + length * torch.randn(20, 30, generator=generator, dtype=torch.float64)
        for scale in (1e-6, 1.0, 1e6):
            slope = quotient(lambda z, s=scale: s * torch.tanh(5 * z), start, end).slope
            assert not (slope < KINK).any()


@pytest.mark.parametrize("bilevel", [sinusoid(), regression(dim=60)], ids=["sinusoid", "regression"])
def test_lanczos_finds_the_ends_of_the_dense_spectrum(bilevel: Bilevel) -> None:
    one = bilevel.one(0)
    phi = one.start + 0.1
    product, n = one.inner_hvp(phi), phi.shape[1]
    assert n > 40
    matrix = torch.cat([product(row[None]) for row in torch.eye(n, dtype=torch.float64)])
    wanted = torch.linalg.eigvalsh(matrix)
    found = extremes(Operator(product, n), np.random.default_rng(0).standard_normal(n))
    assert found == pytest.approx((float(wanted[0]), float(wanted[-1])), rel=1e-4)


@pytest.mark.parametrize("n", [7, 300])
def test_the_eigenvalue_nearest_to_zero_is_that_of_a_dense_solve(n: int) -> None:
    rng = np.random.default_rng(n)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = np.concatenate([-np.linspace(1.0, 5.0, n // 3), [0.01], np.linspace(1.0, 9.0, n - n // 3 - 1)])
    operator = scipy.sparse.linalg.aslinearoperator(basis * values @ basis.T)
    first = rng.standard_normal(n)
    assert nearest_to_zero(operator, first) == pytest.approx(0.01, rel=1e-2)
    assert extremes(operator, first) == pytest.approx((-5.0, 9.0), rel=1e-4)


def test_the_path_is_that_of_the_inner_solver() -> None:
    cell = planted("quadratic", [0.5, 1.0, 2.0])
    chosen, path = iterates(cell, cell.run().adapted, 3)
    assert chosen == [0, STEPS // 2, STEPS]
    assert sorted(path) == [0, 1, STEPS // 2, STEPS // 2 + 1, STEPS - 1, STEPS]
    bilevel = cell.bilevel()
    phi = bilevel.start
    for step in range(STEPS):
        if step in path:
            assert torch.equal(path[step], phi)
        phi = phi - 0.1 * bilevel.inner_grad(phi)
    assert torch.equal(path[STEPS], phi)


def test_a_library_has_no_path_but_its_ends() -> None:
    bilevel = sinusoid()
    inner = {"name": "gradient_descent", "steps": 3, "learning_rate": 0.01}
    method = build("method", {"name": "maml-higher", "inner": inner})
    assert isinstance(method, Method)
    cell = Prepared(bilevel.problem, method, bilevel.tasks, bilevel.meta, (1, 2), 2)
    adapted = cell.run().adapted
    chosen, path = iterates(cell, adapted, 5)
    assert chosen == [0, 1]
    assert torch.equal(path[0], bilevel.start)
    assert torch.equal(path[1], adapted)


def test_pieces_are_told_apart_by_every_way_to_decide() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0])
    pool = torch.nn.functional.max_pool2d
    losses = {
        "relu": lambda z: torch.relu(z).sum(),
        "module": lambda z: torch.nn.ReLU()(z).sum(),
        "clamp": lambda z: z.clamp(min=0.0).sum(),
        "both": lambda z: z.clamp(-2.0, 0.0).sum(),
        "where": lambda z: torch.where(z > 0, z, 0.0).sum(),
        "maximum": lambda z: torch.maximum(z, torch.zeros(3)).sum(),
        "abs": lambda z: z.abs().sum(),
        "leaky": lambda z: torch.nn.functional.leaky_relu(z).sum(),
        "pool": lambda z: pool(z[:2].reshape(1, 1, 1, 2), (1, 2)).sum(),
        "max": lambda z: z[:2].max(),
        "along": lambda z: z[:2].max(dim=0).values,
    }
    for name, loss in losses.items():
        here, near = piece(lambda f=loss: f(x)), piece(lambda f=loss: f(x + 0.1))
        there = piece(lambda f=loss: f(x * torch.tensor([-1.0, 1.0, 1.0])))
        assert len(here) > 0, name
        assert torch.equal(here, near), name
        assert not torch.equal(here, there), name
    assert len(piece(lambda: torch.tanh(x).sum())) == 0


def describe_cell(**changes) -> dict:
    network = {"name": "mlp", "hidden": [6], "activation": "relu"}
    problem = describe(build("problem", {"name": "sinusoid", "network": network, "strength": 1.0}))
    inner = {"name": "gradient_descent", "steps": 6, "learning_rate": 0.02}
    method = describe(build("method", {"name": "imaml", "inner": inner}))
    settings = {"seed": 0, "n_tasks": 3, "split": "train", "dtype": "float32", "device": "cpu", "threads": 1}
    passes = ["accuracy", "assumptions"]
    return {"problem": problem, "method": method, **settings, "passes": passes, "repeats": 3} | changes


def test_the_pass_is_in_the_record_the_same_every_time_and_shown() -> None:
    of = describe_cell()
    record = run_cell(Cell(cell_id(of), of), "study")
    assert record["pass_seconds"]["assumptions"] > 0
    assert shape_fault(record) is None
    found = record["assumptions"]
    assert found == run_cell(Cell(cell_id(of), of), "study")["assumptions"]
    assert found["steps"] == [0, 2, 3, 4, 6]
    assert list(found["violated"]) == list(ASSUMPTIONS)
    assert {len(tasks) for part in ("sizes", "violated") for tasks in found[part].values()} == {3}
    torch.testing.assert_close(
        torch.tensor([row[-1] for row in found["sizes"]["stationarity"]]),
        torch.tensor(record["accuracy"]["adapted"]["stationarity"]),
    )
    lines = assumption_lines(found)
    assert len(lines) == 1 + len(ASSUMPTIONS) + 6
    wanted = ", ".join(
        str(k) for k, bad in zip(found["steps"], found["violated"]["one_piece"][0], strict=True) if bad
    )
    assert (wanted or "-") in next(line for line in lines if "one_piece" in line)


def test_a_record_of_another_shape_is_refused() -> None:
    of = describe_cell(n_tasks=1)
    record = run_cell(Cell(cell_id(of), of), "study")
    record["assumptions"]["violated"]["stationary"][0] = [True]
    assert "steps has 5 values" in str(shape_fault(record))


def test_a_task_is_measured_alike_alone_and_among_others() -> None:
    def some(**changes) -> dict:
        of = describe_cell(**changes)
        cell = inputs.prepare(of)
        return observe(cell, inputs.exact(inputs.exact_key(of)), cell.run())

    three, one, chunked = some(), some(n_tasks=1), some(tasks_at_once=2)
    for name, tasks in three["violated"].items():
        assert one["violated"][name] == tasks[:1]
        assert chunked["violated"][name] == tasks
    for name in ("smallest", "largest", "stationarity", "flips"):
        np.testing.assert_allclose(one["sizes"][name], three["sizes"][name][:1], rtol=1e-5)


def test_a_diverged_path_has_no_answer() -> None:
    cell = planted("quadratic", [0.5, 1.0, 2.0], rate=1e6, steps=60)
    found = seen(cell)
    assert [row[-1] for row in found["violated"]["strongly_convex"]] == [None, None]
    assert [row[0] for row in found["violated"]["strongly_convex"]] == [False, False]


def test_networks_violate_what_they_should() -> None:
    """A ReLU network at a small lambda is on other pieces after a step, a tanh network on none."""
    for activation, kinked in (("relu", True), ("tanh", False), ("softplus", False)):
        network = {"name": "mlp", "hidden": [20, 20], "activation": activation}
        bilevel = draw(build("problem", {"name": "sinusoid", "network": network, "strength": 0.1}), 3)
        inner = {"name": "gradient_descent", "steps": 8, "learning_rate": 0.01}
        method = build("method", {"name": "imaml", "inner": inner})
        cell = Prepared(bilevel.problem, method, bilevel.tasks, bilevel.meta, (1, 2, 3), 3)
        found = seen(cell)["violated"]
        for name in ("inner_smooth", "hessian_lipschitz", "one_piece"):
            assert any(any(row) for row in found[name]) == kinked, (activation, name)
        assert not any(any(row) for row in found["outer_lipschitz"])
        assert all(any(row) for row in found["strongly_convex"])
