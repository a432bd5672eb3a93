"""Meta-training: a step is what it says, resumed training gives the same bits, evaluation is honest."""

import hashlib
import io
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pytest
import torch

from bench import arrays, registry
from bench.api import Bilevel, Estimate, Method, OuterOptimizer
from bench.errors import UsageError
from bench.failures import DivergedError
from bench.train import Course, Training, evaluate

LINEAR = {"name": "linear_regression", "dim": 4, "support": 5, "query": 4}
SINUSOID = {
    "name": "sinusoid",
    "strength": 4.0,
    "network": {"name": "mlp", "hidden": [8], "activation": "tanh"},
}
INNER = {"name": "gradient_descent", "steps": 3, "learning_rate": 0.02}
MAML = {"name": "maml", "inner": INNER}


def course(
    problem=LINEAR, method=MAML, outer="sgd", n_tasks=3, seed=0, dtype=torch.float64, at_once=3
) -> Course:
    build = registry.build
    return Course(
        build("problem", problem),
        build("method", method) if isinstance(method, dict | str) else method,
        build("outer", outer) if isinstance(outer, dict | str) else outer,
        n_tasks, seed, dtype, torch.device("cpu"), at_once,
    )  # fmt: skip


def trained(of: Course, steps: int) -> Training:
    training = Training(of)
    for _ in range(steps):
        training.advance()
    return training


def test_a_step_goes_along_the_mean_meta_gradient():
    """Exact MAML by a graph through three inner steps, written out."""
    of = course(outer={"name": "sgd", "learning_rate": 0.1})
    training = Training(of)
    theta, problem = training.theta, of.problem
    tasks = of.tasks("train", 3, "step", 0, 0)

    def mean_loss(meta):
        total = torch.zeros((), dtype=torch.float64)
        for x, y, query_x, query_y in zip(
            tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y, strict=True
        ):
            phi = meta
            for _ in range(3):
                inner = problem.support_loss(phi, x, y) + problem.strength / 2 * (phi - meta).square().sum()
                (grad,) = torch.autograd.grad(inner, phi, create_graph=True)
                phi = phi - 0.02 * grad
            total = total + problem.query_loss(phi, query_x, query_y)
        return total / 3

    leaf = theta.clone().requires_grad_()
    loss = mean_loss(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    training.advance()
    torch.testing.assert_close(training.theta, theta - 0.1 * gradient, rtol=1e-12, atol=1e-14)
    assert training.losses == [pytest.approx(float(loss.detach()), rel=1e-12)]
    assert training.norms == [pytest.approx(float(gradient.norm()), rel=1e-12)]


OUTERS = [
    "sgd",
    {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "adam",
    {"name": "adam", "decoupled": True, "weight_decay": 0.1},
    "rmsprop",
]


@pytest.mark.parametrize("outer", OUTERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_resumed_training_gives_the_same_bits(outer, dtype, tmp_path):
    of = course(SINUSOID, {"name": "imaml", "inner": INNER}, outer, dtype=dtype, at_once=2)
    whole = trained(of, 5)
    for stop in (0, 2):
        arrays.write(tmp_path / "checkpoint.npz", trained(of, stop).checkpoint())
        resumed = Training(of)
        resumed.restore(arrays.read(tmp_path / "checkpoint.npz"))
        while resumed.step < 5:
            resumed.advance()
        assert torch.equal(resumed.theta, whole.theta)
        assert (resumed.losses, resumed.norms) == (whole.losses, whole.norms)
        first, second = resumed.checkpoint(), whole.checkpoint()
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_draws_depend_on_seed_step_and_task_alone():
    small, large = course().tasks("train", 2, "step", 0, 0), course(n_tasks=9).tasks("train", 5, "step", 0, 0)
    assert torch.equal(small.support_x, large.support_x[:2])
    assert not torch.equal(small.support_x, course().tasks("train", 2, "step", 0, 1).support_x)
    assert not torch.equal(small.support_x, course().tasks("train", 2, "step", 1, 0).support_x)
    assert not torch.equal(small.support_x, course().tasks("test", 2, "step", 0, 0).support_x)
    before = torch.get_rng_state()
    trained(course(), 2)
    assert torch.equal(before, torch.get_rng_state())


def test_training_learns():
    of = course(SINUSOID, MAML, {"name": "adam", "learning_rate": 0.01}, n_tasks=5)
    training = Training(of)
    before = evaluate(of, training.theta, "test", 40)["loss"]
    for _ in range(60):
        training.advance()
    after = evaluate(of, training.theta, "test", 40)["loss"]
    assert after["mean"] + after["half_width"] < before["mean"]


@pytest.mark.parametrize(
    "method", [MAML, {"name": "imaml", "inner": {"name": "armijo", "steps": 2}}], ids=str
)
def test_an_evaluation_is_over_all_tasks_with_its_interval(method):
    of = course(method=method)
    theta = Training(of).theta
    found = evaluate(of, theta, "test", 30)  # more than go at once
    tasks = of.tasks("test", 30, "evaluation")
    losses = []
    for t in range(30):
        one = Bilevel(of.problem, tasks[t : t + 1], theta)
        losses.append(float(one.outer_value(of.method.inner(one, one.start).value)))
    assert found["loss"]["mean"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert found["loss"]["half_width"] == pytest.approx(1.96 * np.std(losses, ddof=1) / sqrt(30), rel=1e-10)
    assert found["accuracy"] is None


def test_accuracy_of_a_classifier():
    glyphs = {"name": "glyphs", "ways": 3, "queries": 2, "network": {"name": "mlp", "hidden": [4]}}
    of = course(glyphs, "fomaml")
    found = evaluate(of, Training(of).theta, "val", 4)
    assert 0 <= found["accuracy"]["mean"] <= 1
    assert found["accuracy"]["mean"] * 4 * 6 == pytest.approx(round(found["accuracy"]["mean"] * 4 * 6))


@dataclass(frozen=True)
class Wild(Method):
    def __call__(self, bilevel):
        start = bilevel.start
        bad = torch.full_like(start, torch.inf if bilevel.tasks.support_x.sum() > 0 else torch.nan)
        return Estimate(bad, start, torch.ones(len(start), dtype=torch.bool), {})


@dataclass(frozen=True)
class Odd(OuterOptimizer):
    def optimizer(self, theta):
        made = torch.optim.SGD([theta], lr=0.1)
        made.state[theta]["notes"] = ["a list"]
        return made


def test_what_cannot_go_on_says_why(tmp_path):
    wild = Training(course(method=Wild()))
    before = wild.theta
    with pytest.raises(DivergedError, match="step 0 is not finite"):
        wild.advance()
    assert torch.equal(wild.theta, before)
    assert wild.step == 0
    with pytest.raises(UsageError, match=r"'notes' of the outer optimizer is a list"):
        Training(course(outer=Odd())).checkpoint()
    with pytest.raises(UsageError, match=r"holds meta-parameters \(4,\), and the problem has \(5,\)"):
        Training(course({**LINEAR, "dim": 5})).restore(Training(course()).checkpoint())


def test_arrays_on_disk(tmp_path):
    path = tmp_path / "deep" / "a.npz"
    content = {"x": np.arange(3.0), "n": np.array(1)}
    arrays.write(path, content)
    first = path.read_bytes()
    digest = hashlib.sha256(first).hexdigest()
    assert arrays.packed(content) == first
    assert arrays.read(path, digest)["x"].tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="there is no"):
        arrays.read(tmp_path / "b.npz")
    with pytest.raises(UsageError, match="is not what it was"):
        arrays.read(path, "0" * 64)
    plain = io.BytesIO()
    np.save(plain, np.arange(3.0))
    for damage in (first[:-40], b"", b"text", first[:20] + b"\0" * 20 + first[40:], plain.getvalue()):
        path.write_bytes(damage)
        with pytest.raises(UsageError, match="is damaged"):
            arrays.read(path)
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="is damaged"):
        arrays.read(path)
