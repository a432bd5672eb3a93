"""What the pass `numerics` counts, against counts by hand."""

from dataclasses import replace

import pytest
import torch

from bench import inputs
from bench.api import Bilevel
from bench.cells import Cell, cell_id
from bench.numerics import Watch, observe
from bench.registry import build, describe
from bench.run import run_cell
from bench.testing.samples import regression, sinusoid
from tests.cases import METHODS, MethodCase, identify

GD = {"name": "gradient_descent", "steps": 6, "learning_rate": 0.02}
OURS = [case for case in METHODS if build("method", case.table).in_torch and "-" not in case.name]


def watched(bilevel: Bilevel) -> tuple[Bilevel, Watch]:
    there = bilevel.at(bilevel.meta)
    there.engine = watch = Watch(len(bilevel.tasks))
    return there, watch


@pytest.mark.parametrize("case", OURS, ids=identify)
def test_the_replay_is_the_same_bit_for_bit_and_calls_the_same_oracles(case: MethodCase) -> None:
    for dtype in (torch.float64, torch.float32):
        plain, method = sinusoid().to(dtype), build("method", case.table)
        if "closed_form" in str(case.table):
            plain = regression().to(dtype)
        there, watch = watched(plain)
        wanted, found = method(plain), method(there)
        assert torch.equal(found.meta_grad, wanted.meta_grad)
        assert torch.equal(found.adapted, wanted.adapted)
        alone = plain.take(slice(None))
        method(alone)
        assert (there.calls.as_dict(), 2) == (plain.calls.as_dict(), 2)  # shared counters
        if dtype == torch.float64:
            assert not any(share.any() for name, share in watch.shares().items() if "flow" in name)


def test_stagnation_is_the_share_of_coordinates_that_a_step_leaves_alone() -> None:
    bilevel = sinusoid().to(torch.bfloat16)
    solver = build("inner", GD)
    there, watch = watched(bilevel)
    watch.end(solver(there, there.start).value)
    phi, moving, stuck = bilevel.start, torch.zeros(2), torch.zeros(2)
    for _ in range(6):
        grad = bilevel.inner_grad(phi)
        after = phi - 0.02 * grad
        moving += (grad != 0).sum(dim=1)
        stuck += ((grad != 0) & (after == phi)).sum(dim=1)
        phi = after
    assert (stuck > 0.05 * moving).all()
    torch.testing.assert_close(watch.shares()["stagnation"], (stuck / moving).double())


def test_a_step_below_half_an_ulp_stagnates_everywhere() -> None:
    bilevel = sinusoid().to(torch.float16)
    there, watch = watched(bilevel)
    end = build("inner", GD | {"learning_rate": 1e-9})(there, there.start).value
    watch.end(end)
    assert torch.equal(end, bilevel.start)
    assert (watch.shares()["stagnation"] == 1).all()


def test_overflow_and_underflow_are_counted_for_the_task_that_has_them() -> None:
    bilevel = regression()
    x, y = bilevel.tasks.support_x.clone(), bilevel.tasks.support_y.clone()
    x[1], y[1] = 200 * x[1], 200 * y[1]
    x[2], y[2] = 1e-5 * x[2], 1e-5 * y[2]
    problem = replace(bilevel.problem, strength=2.0**-30)
    tasks = replace(bilevel.tasks, support_x=x, support_y=y)
    low = Bilevel(problem, tasks, bilevel.meta).to(torch.float16)
    there, watch = watched(low)
    found = there.inner_grad(there.start)
    exact = low.to(torch.float64).inner_grad(low.to(torch.float64).start)
    over = (~torch.isfinite(found)).double().mean(dim=1)
    under = ((found == 0) & (exact != 0)).double().mean(dim=1)
    shares = watch.shares()
    torch.testing.assert_close(shares["gradient_overflow"], over)
    torch.testing.assert_close(shares["gradient_underflow"], under)
    assert over[1] > 0.5
    assert under[2] > 0.5
    assert over[0] == under[0] == 0


def test_curvature_lost_through_rounding_is_told_from_indefiniteness() -> None:
    """A = 900 (1, 1)'(1, 1) + 2^-14 I along v, nearly (1, -1); and products that are wrong by their sign."""
    problem = build("problem", {"name": "linear_regression", "dim": 2, "strength": 2.0**-14, "support": 1})
    one = torch.ones(1, 1, 2, dtype=torch.float64)
    tasks = regression(n_tasks=1).tasks
    tasks = replace(tasks, support_x=30 * one, support_y=torch.zeros(1, 1, dtype=torch.float64))
    tasks = replace(tasks, query_x=one, query_y=torch.zeros(1, 1, dtype=torch.float64))
    low = Bilevel(problem, tasks, torch.zeros(2, dtype=torch.float64)).to(torch.float16)
    there, watch = watched(low)
    v = torch.tensor([[1.0, -1.0 + 2.0**-11]], dtype=torch.float16)
    product = there.inner_hvp(there.start)
    low_curvature = float((v * product(v)).sum())
    high = low.to(torch.float64)
    exact = float((v.double() * high.inner_hvp(high.start)(v.double())).sum())
    assert exact > 0
    assert watch.shares()["lost_curvature"].tolist() == [float(low_curvature <= 0)]
    wrong = Watch(1)
    wrong._at(v, -v, v.double())
    wrong._at(v, -v, -v.double())  # indefinite in float64 too: nothing is lost
    wrong._at(v, v, v.double())
    assert wrong.shares()["lost_curvature"].tolist() == [1.0]


def cell(**changes) -> dict:
    network = {"name": "mlp", "hidden": [6], "activation": "tanh"}
    problem = describe(build("problem", {"name": "sinusoid", "network": network}))
    method = describe(build("method", {"name": "imaml", "inner": GD}))
    settings = {"seed": 0, "n_tasks": 3, "split": "train", "dtype": "bfloat16", "device": "cpu", "threads": 1}
    return {"problem": problem, "method": method, **settings, "passes": ["numerics"], "repeats": 3} | changes


def test_the_pass_is_in_the_record_and_the_same_in_every_chunking() -> None:
    of = cell()
    record = run_cell(Cell(cell_id(of), of), "study")
    assert record["pass_seconds"]["numerics"] > 0
    seen = record["numerics"]
    assert seen == observe(inputs.prepare(of))
    assert {len(values) for values in seen.values()} == {3}
    assert all(share > 0 for share in seen["stagnation"])
    chunked = observe(inputs.prepare(of | {"tasks_at_once": 2}))
    assert chunked == seen


def test_methods_that_go_around_the_oracles_say_so() -> None:
    higher = describe(build("method", {"name": "maml-higher", "inner": GD}))
    assert "two-level problem" in observe(inputs.prepare(cell(method=higher, dtype="float32")))["missing"]
