"""Compiled kernels: equal to eager mode in float64, refused where they are not, and never in the way."""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, one_hot

from bench import registry
from bench.api import Bilevel, Problem, Tasks
from bench.cli.kernels import built_lines
from bench.cli.profile import _table
from bench.compiled import Engine, check, convolution, engine, kernel, lower, taskwise, trace
from bench.compiled.profile import Part, Profile
from bench.inputs import generator
from bench.run import run_cell
from tests.toy_cells import cell

SINUSOID = {"name": "sinusoid", "strength": 40.0, "network": {"name": "mlp", "hidden": [8, 8]}}
TANH = {**SINUSOID, "network": {**SINUSOID["network"], "activation": "tanh"}}


def drawn(table, n_tasks=3, dtype=torch.float64) -> Bilevel:
    problem = registry.build("problem", table) if isinstance(table, dict) else table
    meta = problem.init(generator("init")).to(dtype)
    return Bilevel(problem, problem.sample(generator("task"), n_tasks).to(dtype), meta)


def compiled(bilevel: Bilevel) -> Bilevel:
    return Bilevel(bilevel.problem, bilevel.tasks, bilevel.meta, seeds=bilevel.seeds, engine=Engine())


def both(method, bilevel):
    """The compiled estimate and the eager one, with the counts and the report of the former."""
    fast = compiled(bilevel)
    built = registry.build("method", method)
    found, wanted = built(fast), built(bilevel)
    assert fast.calls == bilevel.calls
    return found, wanted, fast.engine.report()


def by_torch(monkeypatch) -> None:
    """All new kernels by torch's compiler."""

    def refused(*_):
        raise taskwise.UnsupportedError("a test")

    monkeypatch.setattr(engine, "_kernels", {})
    monkeypatch.setattr(taskwise, "lower", refused)


METHODS = [
    {"name": "fomaml"},
    {"name": "maml"},
    {"name": "maml", "backward": "mixed_mode"},
    {"name": "maml", "backward": "checkpointed"},
    {"name": "maml", "backward": "unrolled"},
    {"name": "imaml"},
    {"name": "imaml", "linear": {"name": "conjugate_gradient", "tolerance": 1e-8, "iterations": 50}},
    {"name": "imaml", "linear": "minres"},
    {"name": "imaml", "curvature": "finite_difference"},
    {"name": "fo-b-maml"},
    {"name": "truncated-maml", "last": 2},
    {"name": "binomial-maml"},
    {"name": "forward-gradient"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(str(v) for v in m.values())[:40])
def test_a_compiled_method_is_the_eager_one(method):
    inner = {"name": "gradient_descent", "steps": 4, "learning_rate": 0.01}
    found, wanted, report = both({**method, "inner": inner}, drawn(TANH))
    torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.adapted, wanted.adapted, rtol=1e-12, atol=1e-13)
    assert torch.equal(found.converged, wanted.converged)
    assert report
    assert not [kernel for kernel in report.values() if "eager" in kernel], report


@pytest.mark.parametrize("method", ["maml", "imaml"])
def test_torch_compiles_all_tasks_at_once_too(method, monkeypatch):
    by_torch(monkeypatch)
    inner = {"name": "gradient_descent", "steps": 2, "learning_rate": 0.01}
    found, wanted, report = both({"name": method, "inner": inner}, drawn(TANH))
    torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-9, atol=1e-11)
    assert {kernel["lowering"] for kernel in report.values()} == {"torch"}


@pytest.mark.parametrize("inner", ["adam", "nesterov", "momentum"])
def test_what_varies_from_step_to_step_is_not_frozen_into_a_kernel(inner):
    table = {"name": "maml", "inner": {"name": inner, "steps": 6, "learning_rate": 0.01}}
    found, wanted, report = both(table, drawn(TANH))
    torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-9, atol=1e-11)
    assert len(report) == 3


def test_tf32_has_kernels_of_its_own():
    before, bilevel = torch.get_float32_matmul_precision(), drawn(TANH, dtype=torch.float32)
    kernels = []
    try:
        for precision in ("highest", "high", "highest"):
            torch.set_float32_matmul_precision(precision)
            fast = compiled(bilevel)
            fast.inner_grad(fast.start)
            kernels += fast.engine.kernels().values()
    finally:
        torch.set_float32_matmul_precision(before)
    assert kernels[0] is kernels[2] is not kernels[1]


def test_one_kernel_serves_every_number_of_steps():
    names = set()
    for steps in (1, 3, 9):
        inner = {"name": "gradient_descent", "steps": steps, "learning_rate": 0.01}
        before = len(engine._kernels)
        names |= set(both({"name": "maml", "inner": inner}, drawn(TANH))[2])
    assert len(engine._kernels) == before
    assert len(names) == 3


@pytest.mark.parametrize(("norm", "method"), [("batch", "maml"), ("none", "imaml")])
def test_convolutions_one_task_at_a_time(norm, method):
    network = {"name": "conv4", "filters": 2, "norm": norm}
    bilevel = drawn({"name": "glyphs", "ways": 2, "queries": 2, "network": network, "strength": 50.0}, 2)
    table = {"name": method, "inner": {"name": "gradient_descent", "steps": 2}}
    found, wanted, report = both(table, bilevel)
    torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-7, atol=1e-10)
    assert not [kernel for kernel in report.values() if "eager" in kernel], report


SHAPES = [
    # height, width, kernel, stride, padding, dilation
    (28, 28, 3, 2, 1, 1),
    (7, 7, 3, 2, 1, 1),
    (5, 8, 3, 1, 0, 1),
    (9, 9, 3, 1, 2, 2),
    (10, 11, (2, 3), (3, 2), (1, 0), (1, 2)),
    (4, 4, 1, 1, 0, 1),
    (8, 8, 1, 3, 0, 1),  # pixels that no tap reads
    (6, 6, 5, 1, 2, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution_as_a_matrix_product_with_two_derivatives(shape):
    high, wide, size, stride, padding, dilation = shape
    random = torch.Generator().manual_seed(0)
    kh, kw = size if isinstance(size, tuple) else (size, size)
    x = torch.randn(3, 2, high, wide, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(4, 2, kh, kw, generator=random, dtype=torch.float64).requires_grad_()
    bias = torch.randn(4, generator=random, dtype=torch.float64)

    def derivatives():
        y = conv2d(x, weight, bias, stride=stride, padding=padding, dilation=dilation)
        first = torch.autograd.grad(y.sin().sum(), (x, weight), create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(g.cos().sum() for g in first), (x, weight))]

    wanted = derivatives()
    with convolution.AsMatrixProducts():
        found = derivatives()
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_convolution_as_a_matrix_product_under_vmap():
    random = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(4, *s, generator=random, dtype=torch.float64) for s in [(3, 1, 8, 8), (5, 1, 3, 3)]
    )
    slope = torch.func.grad(lambda w, x: conv2d(x, w, stride=2, padding=1).sin().sum())
    wanted = torch.func.vmap(slope)(weight, x)
    with convolution.AsMatrixProducts():
        torch.testing.assert_close(torch.func.vmap(slope)(weight, x), wanted)


@pytest.mark.parametrize("kind", ["groups", "same"])
def test_other_convolutions_are_left_alone(kind):
    x, weight = torch.ones(1, 4, 5, 5), torch.ones(4, 2 if kind == "groups" else 4, 3, 3)
    options = {"groups": 2} if kind == "groups" else {"padding": "same"}
    with convolution.AsMatrixProducts():
        found = conv2d(x, weight, **options)
    torch.testing.assert_close(found, conv2d(x, weight, **options))


@dataclass(frozen=True)
class Odd(Problem):
    """A linear classifier whose loss does something that cannot be traced, or nothing odd."""

    strength: float = 1.0
    how: str = "plain"

    def init(self, generator):
        return torch.randn(6, generator=generator, dtype=torch.float64)

    def sample(self, generator, n_tasks, split="train"):
        x = torch.randn(n_tasks, 6, 3, generator=generator, dtype=torch.float64)
        y = torch.tensor([0, 1, 1]).repeat(n_tasks, 1)
        return Tasks(x[:, :3], y, x[:, 3:], y)

    def support_loss(self, phi, x, y):
        z = x @ phi.reshape(3, 2)
        if self.how == "item" and float(z.detach().sum()) > 1e9:
            z = z + 1
        if self.how == "factor":
            z = z * z.detach().abs().max().item()
        if self.how == "abs":
            z = z.abs()
        if self.how == "constant":
            z = z * torch.tensor([1.0, 2.0], dtype=z.dtype)
        if self.how == "one_hot":
            return ((z - one_hot(y, 2)) ** 2).sum()
        return torch.nn.functional.cross_entropy(z, y)

    @property
    def batching(self):
        return "loop"


@pytest.mark.parametrize("how", ["plain", "item", "factor", "constant", "one_hot", "abs"])
def test_any_loss_is_right_and_says_where_it_stays_in_eager_mode(how):
    inner = {"name": "gradient_descent", "steps": 2, "learning_rate": 0.1}
    found, wanted, report = both({"name": "maml", "inner": inner}, drawn(Odd(how=how)))
    torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-10, atol=1e-12)
    reasons = [kernel["eager"] for kernel in report.values() if "eager" in kernel]
    if how in ("plain", "abs"):
        assert not reasons
    if how in ("item", "factor"):
        assert len(reasons) == len(report)
        assert all("asks for the value of a tensor" in reason for reason in reasons)
        assert "asks for the value of a tensor" in (kernel.untraceable(drawn(Odd(how=how))) or "")


@dataclass(eq=False)
class Plain:
    """What a user may hold in a field, which equals itself only."""


@dataclass
class Changing(Problem):
    """Losses that depend on fields which ``==`` and hashes do not tell apart."""

    weights: list[float]
    factor: float = field(default=1.0, compare=False)
    sign: float = 0.0
    kept: Plain = field(default_factory=Plain)
    strength = 1.0
    init, sample = Odd.init, Odd.sample

    def support_loss(self, phi, x, y):
        loss = (x @ phi.reshape(3, 2)).square().sum() * self.weights[0] * self.factor
        return loss * math.copysign(1.0, self.sign)


def test_a_kernel_goes_with_all_that_a_problem_holds():
    """In fields without a hash, in fields that do not compare, in the sign of zero, changed in place."""
    problems = [Changing([1.0]), Changing([2.0]), Changing([2.0], 3.0), Changing([2.0], 3.0, -0.0)]
    problems.append(problems[0])
    for number, problem in enumerate(problems):
        bilevel = drawn(problem)
        fast = compiled(bilevel)
        torch.testing.assert_close(fast.inner_grad(fast.start), bilevel.inner_grad(bilevel.start))
        (only,) = fast.engine.report().values()
        assert "eager" not in only, only
        if number == 3:
            problems[0].weights[0] = 5.0


@lru_cache
def _grid(dtype):
    return torch.arange(3, dtype=dtype)


@dataclass(frozen=True)
class Remembering(Problem):
    """Losses with tensors that are made once, and with indices among the numbers of the tasks."""

    strength: float = 1.0
    init = Odd.init

    def sample(self, generator, n_tasks, split="train"):
        x = torch.randint(0, 3, (n_tasks, 6, 3), generator=generator).double()
        y = torch.full((n_tasks, 3), 2.0, dtype=torch.float64)  # the last row that there is
        return Tasks(x[:, :3], y, x[:, 3:], y)

    def support_loss(self, phi, x, y):
        rows = phi.reshape(3, 2)[y.long()]
        return (x @ rows * _grid(phi.dtype)[:, None]).square().sum()


def test_what_a_loss_remembers_is_real_and_indices_stay_in_range():
    bilevel = drawn(Remembering())
    fast = compiled(bilevel)
    found = fast.inner_grad(fast.start)
    torch.testing.assert_close(found, bilevel.inner_grad(bilevel.start))
    (only,) = fast.engine.report().values()
    assert "eager" not in only, only
    assert type(_grid(torch.float64)) is Tensor


def test_a_kernel_that_is_off_is_refused(monkeypatch):
    monkeypatch.setattr(engine, "_kernels", {})

    def wrong(graph, inputs, *_):
        call = lower.lower(graph, inputs)
        return lambda values: [x * (1 + 1e-3) for x in call(values)], "torch"

    monkeypatch.setattr(kernel, "_compiled", wrong)
    bilevel = drawn(SINUSOID, dtype=torch.float32)
    fast = compiled(bilevel)
    assert torch.equal(fast.inner_grad(fast.start), bilevel.inner_grad(bilevel.start))
    (only,) = fast.engine.report().values()
    assert only["eager"].startswith("refused: 0.001 from float64, where eager mode is at ")


def test_the_check_sees_a_missing_proximal_term(monkeypatch):
    """At phi = theta, where every inner loop starts, that term is zero: so the check looks elsewhere."""
    monkeypatch.setattr(engine, "_kernels", {})
    plain = Bilevel.inner_grad

    def without(*_):
        problem = registry.build("problem", {**SINUSOID, "strength": 0.0})

        def call(values):
            meta, x, y, phi = values
            return [Bilevel(problem, Tasks(x, y, x, y), meta).inner_grad(phi)]

        return call, "torch"

    monkeypatch.setattr(kernel, "_compiled", without)
    fast = compiled(drawn(SINUSOID))
    assert torch.equal(fast.inner_grad(fast.start), plain(drawn(SINUSOID), fast.start))
    (only,) = fast.engine.report().values()
    assert "refused" in only["eager"]


def _looked_up(bilevel, x, number):
    return x * {0.0: 2.0}.get(number, 3.0)  # a tensor is not found


def test_a_number_that_is_looked_up_is_no_constant_of_the_kernel():
    bilevel = drawn(SINUSOID)
    fast = compiled(bilevel)
    assert torch.equal(fast.fused(_looked_up)(fast.start, 0.0), 2 * bilevel.start)
    (only,) = fast.engine.report().values()
    assert only["eager"].startswith("refused")


def test_what_is_not_a_number_is_as_far_as_can_be():
    exact, wrong = torch.ones(2, 3), torch.tensor([[1.0, 1.0, 1.0], [1.0, torch.nan, 1.0]])
    assert check._distance(wrong, exact) == check._distance(exact, wrong) == torch.inf
    assert check._distance(wrong, wrong) == 0
    assert not check.acceptable(1.0, torch.inf, torch.float32)
    assert not check.acceptable(1.0, 0.0, torch.bfloat16)


def test_two_arguments_may_be_one_tensor():
    """As r and p are in the first iteration of CG: a trace would take one for the other."""

    def function(bilevel, a, b):
        return a + 2 * b, a - b

    fast = compiled(drawn(SINUSOID))
    x, other = fast.start, fast.start + 1
    call = fast.fused(function)
    assert torch.equal(call(x, x)[0], 3 * x)
    torch.testing.assert_close(call(x, other), (x + 2 * other, x - other))
    assert not [k for k in fast.engine.report().values() if "eager" in k]


def test_long_sums_in_float32():
    """Batch norm over 14,700 rows: summed in one go, a compiled kernel is off by 1e-4 and more."""
    x = torch.rand(75, 4, 14, 14, generator=torch.Generator().manual_seed(0)) + 3

    def variance(x: Tensor) -> tuple[Tensor]:
        return ((x - x.mean(dim=(0, 2, 3), keepdim=True)).square().mean(dim=(0, 2, 3)),)

    graph, used = trace.trace(variance, [x])
    assert used == [0]
    (found,), (exact,) = lower.lower(graph, [x])([x]), variance(x.double())
    assert ((found.double() - exact).abs() / exact).max() < 2e-6


def test_autograd_passes_through_in_eager_mode():
    bilevel = drawn(TANH)
    fast = compiled(bilevel)
    phi = bilevel.start.requires_grad_()
    (found,) = torch.autograd.grad(fast.inner_grad(phi).square().sum(), phi)
    (wanted,) = torch.autograd.grad(bilevel.inner_grad(phi).square().sum(), phi)
    torch.testing.assert_close(found, wanted)
    assert not fast.engine.report()


def test_without_the_inner_entry_point_the_public_one_serves(monkeypatch):
    monkeypatch.setattr(engine, "_kernels", {})
    by_torch(monkeypatch)
    lower._entry()  # torch warns while it imports itself
    monkeypatch.setattr(lower, "_entry", lambda: None)
    bilevel = drawn(SINUSOID)
    fast = compiled(bilevel)
    torch.testing.assert_close(fast.outer_grad(fast.start), bilevel.outer_grad(bilevel.start))
    assert "error" in fast.engine.report()["Bilevel.outer_grad()"]


ONE_KERNEL = """
from tests.test_compiled import Odd, compiled, drawn
fast = compiled(drawn(Odd()))
fast.inner_grad(fast.start)
print(fast.engine.report())
"""


def test_kernels_on_disk_that_cannot_be_used_cost_time_only(tmp_path):
    """A damaged one is made again; without a folder to write to, every process makes its own."""

    def told() -> str:
        environment = os.environ | {"METABENCH_CACHE": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": ""}
        del environment["TORCHINDUCTOR_CACHE_DIR"]
        root = Path(__file__).parent.parent
        done = subprocess.run([sys.executable, "-c", ONE_KERNEL], env=environment, cwd=root,
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert "'error'" in done.stdout
        assert "'eager'" not in done.stdout
        return done.stderr

    assert "kernels" not in told()
    codes = list(tmp_path.rglob("*.py"))
    assert codes
    for code in codes:
        code.write_text("")
    assert "compiled without them" in told()
    shutil.rmtree(tmp_path / "kernels")
    (tmp_path / "kernels").touch()
    assert "every process compiles its own" in told()


def test_the_version_of_torch_has_the_inner_entry_point():
    assert lower._entry() is not None


def test_probes_stay_where_squares_are_and_leave_equal_points():
    a, v, zero, whole = torch.ones(2, 3), torch.tensor([[0.0, 1e-8]]), torch.zeros(2), torch.tensor([1, 2])
    moved = check.probe([a, v, zero, whole])
    assert (moved[0] > a).all()
    assert (moved[1] >= 0).all()
    assert (moved[2] > 0).all()
    assert torch.equal(moved[3], whole)


def test_a_compiled_cell_has_an_id_and_a_record_of_its_own():
    maml = {"name": "maml", "inner": {"name": "gradient_descent", "steps": 2, "learning_rate": 0.01}}
    eager = cell(maml, TANH)
    fast = cell(maml, TANH, engine="compiled", passes=["accuracy", "tensor_bytes"])
    assert "engine" not in eager.description
    assert fast.id != eager.id
    record, other = run_cell(fast, "study"), run_cell(eager, "study")
    assert record["status"] == "ok"
    assert record["calls"] == other["calls"]
    assert set(record["engine"]) == {
        "Bilevel.outer_grad()",
        "FirstOrderSolver.advance(GradientDescent)",
        "_backward(GradientDescent)",
    }
    assert "out of the meter's sight" in record["tensor_bytes"]["missing"]
    assert max(record["accuracy"]["references"]["maml"]["relative_error"]) < 1e-5
    again = run_cell(fast, "study")
    assert again["accuracy"]["meta_grad_sha256"] == record["accuracy"]["meta_grad_sha256"]


def test_a_kernel_says_what_it_computes_of_which_size_and_whether_it_was_found(monkeypatch, tmp_path):
    found = []
    for _ in range(2):
        monkeypatch.setattr(engine, "_kernels", {})
        fast = compiled(drawn(SINUSOID, n_tasks=2))
        fast.outer_grad(fast.start)
        found += fast.engine.kernels().values()
    assert [one.what for one in found] == ["Gradient of the query loss in phi"] * 2
    assert [one.size for one in found] == [(2, 97)] * 2
    assert found[1].cached
    (line,) = built_lines(found[1:], "float64")
    assert (
        "Gradient of the query loss in phi  2 tasks x 97 parameters, float64  task by task, found on disk in "
        in line
    )
    found[1].cached = False
    assert "task by task, built in" in built_lines(found[1:], "float64")[0]


def test_every_kernel_of_ours_has_words():
    inner = {"name": "gradient_descent", "steps": 1}
    for table in (
        {"name": "imaml", "inner": inner},
        {"name": "maml", "backward": "mixed_mode", "inner": inner},
    ):
        fast = compiled(drawn(TANH, n_tasks=1))
        registry.build("method", table)(fast)
        assert all(" " in one.what.partition(" (")[0] for one in fast.engine.kernels().values())


def test_a_profile_has_no_negative_times():
    whole = Profile(1.0, (Part("a", "torch", 1, 0.8, 0.4), Part("b", "torch", 1, 0.3, 0.5)))
    assert (whole.rest, whole.excess) == (0.0, pytest.approx(0.1))
    lines = _table(whole)
    assert "| between the kernels |  |  | - | - |  |  |" in lines
    assert not any("| -" in line.replace("| - |", "") for line in lines[2:])
    assert any(line.startswith("Below 1: ") for line in lines)
    assert any("take 100 ms (10%) more than the call" in line for line in lines)
    plain = _table(Profile(1.0, (Part("a", "torch", 1, 0.8, 0.4),)))
    assert "| between the kernels |  |  | 200 | 20% |  |  |" in plain
    assert plain[-1].startswith("| all |")
