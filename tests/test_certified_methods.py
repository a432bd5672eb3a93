"""Certified meta-gradients: against rational arithmetic, and rounding found where it was planted."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from flint import arb, ctx, fmpq, fmpq_mat

from analysis import table
from bench import inputs, registry
from bench.api import Estimate, InnerSolver, Method
from bench.certified import Floats, Player, enclose, references, trace
from bench.record import Store
from bench.reference import implicit_reference
from bench.registry import register
from bench.run import run_cell
from tests.command_line import metabench
from tests.toy_cells import cell, register_toys

STEPS, RATE, ITERATIONS = 4, 0.05, 3
INNER = {"name": "gradient_descent", "steps": STEPS, "learning_rate": RATE}
LINEAR = {"name": "linear_regression", "dim": 5, "support": 3, "query": 4, "strength": 1.3}
TANH = {"name": "sinusoid", "network": {"name": "mlp", "hidden": [6], "activation": "tanh"}}
METHODS = {
    "maml": {"name": "maml", "inner": INNER},
    "fomaml": {"name": "fomaml", "inner": INNER},
    "reptile": {"name": "reptile", "inner": INNER},
    "imaml": {
        "name": "imaml",
        "inner": INNER,
        "linear": {"name": "conjugate_gradient", "iterations": ITERATIONS},
    },
}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register_toys(monkeypatch)


def given(problem, method, dtype="float64", n_tasks=1):
    one = cell(method, problem, dtype=dtype, n_tasks=n_tasks).description
    return inputs.prepare(one), inputs.exact(inputs.exact_key(one))


def enclosure(problem, method, dtype="float64"):
    prepared, _ = given(problem, method, dtype)
    one = prepared.bilevel()
    return enclose(Player(trace(lambda: [prepared.method(one).meta_grad], [])), []), prepared


# --- rational arithmetic


def rational(x) -> fmpq_mat:
    rows = x.double().reshape(len(x), -1).tolist()
    return fmpq_mat(len(rows), len(rows[0]), [fmpq(*v.as_integer_ratio()) for row in rows for v in row])


def number(x: float) -> fmpq:
    return fmpq(*x.as_integer_ratio())


class Quadratic:
    """The two-level problem of linear regression, written down once more in fractions."""

    def __init__(self, bilevel):
        t = bilevel.tasks
        (x, y, self.xq, self.yq) = (rational(v[0]) for v in (t.support_x, t.support_y, t.query_x, t.query_y))
        n, self.dim = x.nrows(), x.ncols()
        self.strength = number(bilevel.strength)
        self.theta = rational(bilevel.meta)
        self.eye = fmpq_mat(
            self.dim, self.dim, [int(i == j) for i in range(self.dim) for j in range(self.dim)]
        )
        self.hessian = x.transpose() * x * fmpq(1, n) + self.eye * self.strength
        self.rhs = x.transpose() * y * fmpq(1, n) + self.theta * self.strength

    def query(self, phi):
        return self.xq.transpose() * (self.xq * phi - self.yq) * fmpq(1, self.xq.nrows())

    def meta_grad(self, method):
        rate, phi, jacobian = number(RATE), self.theta, self.eye
        for _ in range(STEPS):
            phi = phi - (self.hessian * phi - self.rhs) * rate
            jacobian = jacobian - self.hessian * jacobian * rate + self.eye * (rate * self.strength)
        g = self.query(phi)
        if method == "maml":
            return jacobian.transpose() * g
        if method == "imaml":
            return self.conjugate_gradient(g) * self.strength
        return g if method == "fomaml" else self.theta - phi

    def conjugate_gradient(self, b):
        x, r, p = b * 0, b, b
        for _ in range(ITERATIONS):
            Ap = self.hessian * p
            alpha = (r.transpose() * r)[0, 0] / (p.transpose() * Ap)[0, 0]
            x, rest = x + p * alpha, r - Ap * alpha
            p = rest + p * ((rest.transpose() * rest)[0, 0] / (r.transpose() * r)[0, 0])
            r = rest
        return x

    def implicit(self):
        return self.hessian.inv() * self.query(self.hessian.inv() * self.rhs) * self.strength


def contained(balls, exact: fmpq_mat) -> bool:
    with ctx.workprec(3000):
        return all(ball.contains(arb(q)) for ball, q in zip(balls, exact.entries(), strict=True))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("method", METHODS)
def test_the_enclosure_holds_the_rational_solution(method, dtype):
    found, prepared = enclosure(LINEAR, METHODS[method], dtype)
    exact = Quadratic(prepared.bilevel()).meta_grad(method)
    assert found.radius < 1e-30
    assert contained(found.balls, exact)
    off = fmpq_mat(exact)
    off[2, 0] += fmpq(1, 10**25)
    assert not contained(found.balls, off)


def test_certified_references_hold_the_rational_ones():
    prepared, exact = given(LINEAR, METHODS["maml"])
    problem = Quadratic(exact)
    assert contained(
        references.maml(exact, prepared.method.inner, 1e-30, 60).balls, problem.meta_grad("maml")
    )
    implicit = references.implicit(exact, 60)
    assert contained(implicit.balls, problem.implicit())
    assert max(float(b.rad()) for b in implicit.balls) < 1e-30


def test_the_implicit_reference_of_a_network_is_certified():
    _, exact = given(TANH, METHODS["imaml"])
    proven = references.implicit(exact, 60)
    middle = torch.tensor([float(b.mid()) for b in proven.balls], dtype=torch.float64)
    reference = implicit_reference(exact).value[0]
    assert (middle - reference).norm() < 1e-12 * reference.norm()
    assert max(float(b.rad()) for b in proven.balls) < 1e-30
    assert "Krawczyk" in proven.how


# --- whole methods


@pytest.mark.parametrize("inner", ["gradient_descent", "momentum", "nesterov", "adam"])
@pytest.mark.parametrize("method", METHODS)
def test_whole_methods_played_in_float64_are_torchs(method, inner):
    table = {**METHODS[method], "inner": {"name": inner, "steps": 3}}
    prepared, _ = given({"name": "sinusoid", "network": {"name": "mlp", "hidden": [7, 5]}}, table)
    one, other = prepared.bilevel(), prepared.bilevel()
    player = Player(trace(lambda: [prepared.method(one).meta_grad], []))
    expected = prepared.method(other).meta_grad.numpy()
    np.testing.assert_allclose(
        player(Floats(), [])[0], expected, rtol=1e-9, atol=1e-13 * np.abs(expected).max()
    )
    found = enclose(player, [])
    middle = np.array([float(b.mid()) for b in found.balls])
    np.testing.assert_allclose(middle, expected[0], rtol=1e-9, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("network", [{"name": "mlp", "hidden": [6]}, {"name": "conv4", "filters": 2}])
def test_classification_and_convolutions(network):
    problem = {"name": "glyphs", "network": network}
    found, prepared = enclosure(problem, {"name": "maml", "inner": {**INNER, "steps": 1}})
    expected = prepared.run().meta_grad[0]
    middle = torch.tensor([float(b.mid()) for b in found.balls], dtype=torch.float64)
    assert (middle - expected).norm() < 1e-12 * expected.norm()
    assert found.radius < 1e-30


@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_on_sinusoids(method):
    table = {**METHODS[method], "inner": {"name": "gradient_descent", "steps": 20}}
    record = run_cell(cell(table, "sinusoid", n_tasks=1, passes=["accuracy", "certified"]), "study")
    (task,) = record["certified"]["tasks"]
    assert task["radius"] < 1e-30
    assert 0 < task["rounding"]["lower"] <= task["rounding"]["upper"] < 1e-10
    assert task["seconds"] > 0
    assert task["nodes"] > 1000
    maml = task["references"]["maml"]
    assert maml["certified"]
    assert maml["float64_error"]["upper"] < 1e-13
    measured = record["accuracy"]["references"]["maml"]["relative_error"][0]
    if method == "maml":
        assert maml["truncation"]["upper"] < 1e-30
        assert maml["total"]["upper"] < 1e-13
    else:
        assert maml["truncation"]["lower"] > 1e-3
        assert maml["total"]["upper"] == pytest.approx(measured, rel=1e-9)


# --- faults


@dataclass(frozen=True)
class HalfProduct(Method):
    """The query gradient of linear regression at theta; one of its products in float16, if ``half``."""

    half: bool = True
    inner: InnerSolver = field(default_factory=lambda: registry.build("inner", {**INNER, "steps": 0}))

    def __call__(self, bilevel):
        phi, t = bilevel.start, bilevel.tasks
        low = torch.float16 if self.half else phi.dtype
        outputs = (t.query_x.to(low) @ phi.to(low)[:, :, None]).to(phi.dtype)[:, :, 0]
        grad = (t.query_x.mT @ (outputs - t.query_y)[:, :, None])[:, :, 0] / t.query_x.shape[1]
        return Estimate(grad, phi, torch.ones(len(phi), dtype=torch.bool), {})


def test_a_planted_rounding_fault_is_found_as_rounding():
    register("method", "half-product")(HalfProduct)
    errors = {}
    for half in (True, False):
        one = cell({"name": "half-product", "half": half}, LINEAR, dtype="float32", passes=["certified"])
        errors[half] = run_cell(one, "study")["certified"]["tasks"]
    for faulty, sound in zip(errors[True], errors[False], strict=True):
        assert 1e-5 < faulty["rounding"]["lower"] <= faulty["rounding"]["upper"] < 1e-1
        assert sound["rounding"]["upper"] < 1e-6
        for task in (
            faulty,
            sound,
        ):  # without an inner step this is exact MAML, and a cast is none of its errors
            assert task["references"]["maml"]["truncation"]["upper"] < 1e-30
            assert task["references"]["maml"]["total"] == pytest.approx(task["rounding"], rel=1e-9)


@dataclass(frozen=True)
class Fork(Method):
    """Asks whether 1 + 2^-30 is above 1, which float32 denies."""

    def __call__(self, bilevel):
        phi = bilevel.start
        one, grad = torch.ones_like(phi), bilevel.outer_grad(phi)
        grad = 3 * grad if (one + 2.0**-30 > one).all() else 5 * grad
        return Estimate(grad, phi, torch.ones(len(phi), dtype=torch.bool), {})


def test_a_branch_that_rounding_turned_is_taken_as_exact_arithmetic_takes_it():
    register("method", "fork")(Fork)
    for dtype, turned, error in (("float32", 1, 2 / 3), ("float64", 0, 0.0)):
        record = run_cell(
            cell({"name": "fork"}, LINEAR, dtype=dtype, n_tasks=1, passes=["certified"]), "study"
        )
        (task,) = record["certified"]["tasks"]
        assert len(task["turned"]) == turned
        assert all("tests/test_certified_methods.py" in where for where in task["turned"])
        assert task["rounding"]["upper"] == pytest.approx(error, abs=1e-6)


def test_a_line_search_goes_by_its_own_exact_answers():
    inner = {"name": "armijo", "steps": 5, "tolerance": 1e-5}
    low = {}
    for dtype in ("float64", "float16"):
        record = run_cell(
            cell({"name": "imaml", "inner": inner}, TANH, dtype=dtype, n_tasks=1, passes=["certified"]), "s"
        )
        (task,) = record["certified"]["tasks"]
        low[dtype] = task
        assert task["references"]["maml"]["missing"].startswith("Armijo is no sequence")
    assert low["float64"]["rounding"]["upper"] < 1e-10
    assert low["float16"]["rounding"]["lower"] > 1e-6


# --- the pass, the record, the verb


def test_no_failure_to_certify_fails_a_cell():
    imaml = {"name": "imaml", "inner": INNER, "linear": {"name": "nystrom"}}
    record = run_cell(cell(imaml, LINEAR, n_tasks=2, passes=["certified"]), "study")
    assert record["status"] == "ok"
    for task in record["certified"]["tasks"]:
        assert task["kind"] == "unsupported operator"
        assert "linear/nystrom.py" in task["missing"]
    numpy = run_cell(
        cell({"name": "toy-method", "behaviour": "print"}, "toy", n_tasks=1, passes=["certified"]), "study"
    )
    assert "references" in numpy["certified"]["tasks"][0]
    broken = run_cell(cell("half-nan", passes=["certified"]), "study")
    assert broken["status"] == "non_finite"
    assert len(broken["certified"]["tasks"]) == 3


def test_the_record_its_table_and_its_page(tmp_path):
    one = cell(METHODS["imaml"], LINEAR, n_tasks=2, dtype="float32", passes=["accuracy", "certified"])
    record = run_cell(one, "study")
    assert set(record["pass_seconds"]) == {"inputs", "method", "accuracy", "certified"}
    Store(tmp_path, "study").write(record)
    frame = table.frame([record])
    tasks = record["certified"]["tasks"]
    assert frame["certified.rounding"].tolist() == [t["rounding"]["upper"] for t in tasks]
    implicit = [t["references"]["implicit"] for t in tasks]
    assert frame["certified.truncation.implicit"].tolist() == [r["truncation"]["upper"] for r in implicit]
    assert frame["certified.total_low.implicit"].tolist() == [r["total"]["lower"] for r in implicit]
    assert frame["certified.proven.implicit"].tolist() == [1, 1]
    assert frame["error.implicit"].tolist() == pytest.approx(
        [r["total"]["upper"] for r in implicit], rel=1e-9
    )
    alone = table.frame([{k: v for k, v in record.items() if k != "accuracy"}])
    assert alone["task"].tolist() == [0, 1]
    shown = metabench("show", record["id"], "--results", tmp_path)
    assert shown.code == 0, shown.err
    assert "truncation, to implicit" in shown.out


def test_a_result_that_overflowed_has_an_exact_one():
    fomaml = {"name": "fomaml", "inner": {**INNER, "steps": 60, "learning_rate": 5.0}}
    found = metabench(
        "certify", "fomaml", "--problem", "linear_regression", "--set", "problem.dim=5", "--tasks", 1,
        "--set", "method.inner.steps=60", "--set", "method.inner.learning_rate=5.0",
    )  # fmt: skip
    assert found.code == 0
    assert "not finite" in found.out
    assert "truncation, to maml" in found.out  # which float64 has not
    exact, prepared = enclosure(LINEAR, fomaml, "float32")
    assert not prepared.run().meta_grad.isfinite().all()
    assert exact.radius < 1e-30


def test_a_compiled_cell_is_held_to_the_eager_program():
    record = run_cell(
        cell(METHODS["fomaml"], LINEAR, n_tasks=1, engine="compiled", passes=["certified"]), "study"
    )
    (task,) = record["certified"]["tasks"]
    assert task["rounding"]["upper"] < 1e-14


def test_the_verb():
    settings = ["--problem", "linear_regression", "--set", "problem.dim=5", "--tasks", 2]
    shown = metabench("certify", "imaml", *settings, "--set", "method.inner.steps=3", "--dtype", "float16")
    assert shown.code == 0, shown.err
    assert "float16" in shown.out.splitlines()[1]
    assert [line.split("  ")[1] for line in shown.out.splitlines() if line.startswith("  rounding")]
    found = metabench("certify", "reptile", *settings, "--set", "method.inner=adam", "--json").json()
    assert found["cell"]["method"]["inner"]["name"] == "adam"
    assert all(task["radius"] < 1e-30 for task in found["tasks"])
    nothing = metabench("certify", "imaml", *settings, "--set", "method.linear=nystrom")
    assert nothing.code == 3
    assert "unsupported operator" in nothing.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "unknown method 'nonsense'"),
        (["imaml", "--set", "inner.steps=3"], "write method.FIELD=VALUE or problem.FIELD=VALUE"),
        (["imaml", "--set", "method.iner.steps=3"], "did you mean 'inner'"),
        (["imaml", "--set", "method.inner.steps=three"], "steps is of type int"),
        (["imaml", "--dtype", "float8"], "allowed: float64, float32"),
        (["imaml", "--bound", "2"], "--bound 2.0 is not possible"),
    ],
)
def test_wrong_usage_of_the_verb(arguments, message):
    result = metabench("certify", *arguments, "--problem", "linear_regression")
    assert result.code == 2
    assert message in result.err
