"""Methods on a few tasks at a time: the same results, less memory, calls counted once."""

from typing import Any

import pytest
import torch

from bench import inputs, registry, run
from bench.api import Bilevel, Estimate
from bench.at_once import estimate
from bench.measure import tensor_bytes
from tests.toy_cells import cell, register_toys

GLYPHS = {"name": "glyphs", "strength": 200.0, "network": {"name": "conv4", "filters": 32}}
STEPS = {"name": "gradient_descent", "steps": 8, "learning_rate": 0.004}
METHODS: list[dict[str, Any]] = [
    {"name": "maml"},
    {"name": "imaml"},
    {"name": "imaml-warm-start"},
    {"name": "forward-gradient"},  # draws of its own for every task
    {"name": "imaml", "inner": "armijo", "linear": {"name": "conjugate_gradient", "tolerance": 0.001}},
]


def prepared(method: dict[str, Any], **changes: Any) -> inputs.Prepared:
    return inputs.prepare(cell(method, "sinusoid", n_tasks=5, **changes).description)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, [m["name"], len(m)])))
def test_chunks_give_what_all_at_once_give(method):
    whole = prepared(method)
    bilevel = whole.bilevel()
    wanted = whole.run(bilevel)
    for at_once in (1, 2, 5, 9):
        parts = whole.bilevel()
        found = estimate(whole.method, parts, at_once)
        torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.adapted, wanted.adapted, rtol=1e-12, atol=1e-14)
        assert torch.equal(found.converged, wanted.converged)
        assert found.stats.keys() == wanted.stats.keys()
        assert all(len(found.stats[name]) == 5 for name in wanted.stats)
        if method.get("inner") == "armijo":  # its tasks wait for each other's line search in every step
            assert 0 < parts.calls.inner_values <= bilevel.calls.inner_values
        else:
            assert parts.calls == bilevel.calls


def test_what_a_method_remembers_is_handed_on_task_by_task():
    cell = prepared({"name": "imaml-warm-start"})
    whole, parts = cell.bilevel(), cell.bilevel()
    for _ in range(2):  # the second starts from the first's
        wanted = estimate(cell.method, whole, 5)
        found = estimate(cell.method, parts, 2)
        torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-9, atol=1e-12)
    assert parts.memory.keys() == whole.memory.keys() != set()
    assert {len(rows) for rows in parts.memory.values()} == {5}


def test_what_is_told_of_some_tasks_only_is_unknown_of_the_others():
    bilevel = prepared({"name": "maml"}).bilevel()

    def method(part):
        grad = part.start
        told = {"first": grad[:, 0]} if part.seeds[0] == bilevel.seeds[0] else {"later": grad[:, 1]}
        return Estimate(grad, grad, torch.ones(len(grad), dtype=torch.bool), told)

    stats = estimate(method, bilevel, 3).stats  # pyright: ignore[reportArgumentType]
    assert stats["first"][:3].tolist() == bilevel.start[:3, 0].tolist()
    assert stats["later"][3:].tolist() == bilevel.start[3:, 1].tolist()
    assert stats["first"][3:].isnan().all()
    assert stats["later"][:3].isnan().all()


def test_a_meta_vector_for_every_task_is_cut_too():
    whole = prepared({"name": "maml"}).bilevel()
    many = Bilevel(
        whole.problem, whole.tasks, whole.start + 0.01 * torch.arange(5)[:, None], seeds=whole.seeds
    )
    method = registry.build("method", {"name": "maml"})
    torch.testing.assert_close(estimate(method, many, 2).meta_grad, method(many).meta_grad)


def test_a_problem_that_loops_over_tasks_is_given_them_one_by_one():
    changes: dict[str, Any] = {"n_tasks": 8, "dtype": "float32"}
    loop = inputs.prepare(cell({"name": "maml", "inner": STEPS}, GLYPHS, **changes).description)
    assert (loop.at_once, prepared({"name": "maml"}).at_once) == (1, 5)
    asked = inputs.prepare(
        cell({"name": "maml", "inner": STEPS}, GLYPHS, tasks_at_once=8, **changes).description
    )
    assert asked.at_once == 8
    peak, whole = (tensor_bytes(each.run, each.device)["peak"] for each in (loop, asked))
    assert peak < 0.5 * whole


def test_a_record_says_it_where_it_is_asked_for(monkeypatch):
    register_toys(monkeypatch)
    record = run.run_cell(cell("good", tasks_at_once=2, passes=["accuracy", "time"]), "s")
    assert record["status"] == "ok"
    assert record["cell"]["tasks_at_once"] == 2
    assert len(record["accuracy"]["converged"]) == 3
