"""Line searches: their counts against theory, jumps where a step length switches, and the study's verdict."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from analysis import figures, report, table
from analysis.figures import line_search as drawn
from bench import switches
from bench.api import Bilevel, Declined
from bench.cells import expand
from bench.inputs import Prepared
from bench.record import Store
from bench.record.shape import shape_fault
from bench.registry import build
from bench.run import run_cell
from bench.spec import load, shipped
from bench.testing.samples import regression
from tests import fake_records as fake
from tests.toy_cells import cell

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
SOLVERS = {"armijo": "Armijo", "lbfgs": "L-BFGS", "hessian_free": "Hessian-free"}
LINEAR = {"name": "linear_regression", "dim": 8, "support": 5}


# --- what the solvers count


@pytest.mark.parametrize("name", SOLVERS)
def test_searches_are_counted_and_none_is_lost_in_float64(name: str) -> None:
    bilevel = regression()
    stats = build("inner", {"name": name, "steps": 4})(bilevel, bilevel.start).stats
    assert (stats["line_search_failures"] == 0).all()
    assert (stats["line_search_flat"] == 0).all()
    assert (stats["line_search_accepted"] <= 4).all()
    assert (stats["line_search_accepted"] >= 1).all()


def test_the_promise_is_the_first_order_decrease_in_ulps() -> None:
    bilevel = regression()
    solver = build("inner", {"name": "armijo", "steps": 1, "learning_rate": 1e-3})
    grad, value = bilevel.inner_grad(bilevel.start), bilevel.inner_value(bilevel.start)
    wanted = 1e-3 * grad.square().sum(dim=1) / (2.220446049250313e-16 * value.abs())
    got = solver(bilevel, bilevel.start).stats["line_search_promise"]
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_run_on_in_float32_every_task_loses_searches_below_an_ulp(name: str) -> None:
    """A search is lost only once its promise is near rounding; in float64 the same steps still go down."""
    bilevel = regression()
    low = bilevel.to(torch.float32)
    table_ = {"name": name, "steps": 40, "tolerance": 0.0}
    stats = build("inner", table_)(low, low.start).stats
    lost = stats["line_search_failures"] + stats["line_search_flat"]
    assert (lost > 0).all()
    assert (stats["line_search_promise"] < 1).all()


def test_an_indefinite_hessian_is_met_and_said() -> None:
    """G = support loss of a tanh network + a small pull: indefinite at a random start, as `eigvalsh` says."""
    network = {"name": "mlp", "hidden": [6, 6], "activation": "tanh"}
    problem = build("problem", {"name": "sinusoid", "network": network, "strength": 1e-3})
    generator = torch.Generator().manual_seed(0)
    bilevel = Bilevel(problem, problem.sample(generator, 3), problem.init(generator))
    solver = build(
        "inner",
        {"name": "hessian_free", "steps": 1, "linear": {"name": "conjugate_gradient", "iterations": 60}},
    )
    hvp, n = bilevel.inner_hvp(bilevel.start), bilevel.start.shape[1]
    dense = torch.stack([hvp(row.expand(3, n)) for row in torch.eye(n, dtype=torch.float64)], dim=1)
    indefinite = torch.linalg.eigvalsh((dense + dense.mT) / 2)[:, 0] < 0
    assert indefinite.any()
    met = solver(bilevel, bilevel.start).stats["negative_curvature"] > 0
    assert torch.equal(met, indefinite)
    convex = regression()
    stats = solver(convex, convex.start).stats
    assert (stats["negative_curvature"] == 0).all()
    assert (stats["no_descent"] == 0).all()


# --- the derivative that unrolling takes, and the jumps that it does not see


def prepared(bilevel: Bilevel, method: dict) -> Prepared:
    n = len(bilevel.tasks)
    return Prepared(bilevel.problem, build("method", method), bilevel.tasks, bilevel.meta, bilevel.seeds, n)


@pytest.mark.parametrize("name", ["armijo", "lbfgs"])
def test_unrolled_with_constant_step_lengths_it_is_the_derivative_between_switches(name: str) -> None:
    bilevel = regression()
    method = {"name": "maml-line-search", "inner": {"name": name, "steps": 4}}
    found = switches.observe(prepared(bilevel, method), bilevel)
    near = [row[found["distances"].index(1e-4)] for row in found["mismatch"]]
    assert max(near) < 1e-6
    implicit = {"name": "fomaml", "inner": {"name": name, "steps": 4}}  # leaves out d phi / d theta
    missed = switches.observe(prepared(bilevel, implicit), bilevel)["mismatch"]
    assert min(row[found["distances"].index(1e-4)] for row in missed) > 1e-2


def test_gradient_descent_has_no_jump_and_its_mismatch_estimates_the_error() -> None:
    """The map is affine and differences exact: MAML's mismatch is rounding, FOMAML's its error."""
    bilevel = regression()
    inner = {"name": "gradient_descent", "steps": 4, "learning_rate": 0.05}
    maml = switches.observe(prepared(bilevel, {"name": "maml", "inner": inner}), bilevel)
    assert maml["jump"] == [0.0] * 3
    assert maml["growth"] == pytest.approx([1.0] * 3, rel=1e-6)
    assert max(row[0] for row in maml["mismatch"]) < 1e-10
    first = switches.observe(prepared(bilevel, {"name": "fomaml", "inner": inner}), bilevel)
    exact, rough = (
        build("method", {"name": n, "inner": inner})(bilevel).meta_grad for n in ("maml", "fomaml")
    )
    error = (exact - rough).norm(dim=1) / rough.norm(dim=1)
    for row, wanted in zip(first["mismatch"], error.tolist(), strict=True):
        assert row[:3] == pytest.approx([row[0]] * 3, rel=1e-6)
        assert wanted / 4 < row[0] < 4 * wanted  # an estimate from three directions


def test_at_a_switch_the_jump_is_half_the_way() -> None:
    """One Armijo step where t is just halved once more: phi - theta = -t grad G, with t or t / 2."""
    bilevel = regression(1, condition=20.0)
    solver = build("inner", {"name": "armijo", "steps": 1, "tolerance": 0.0})

    def length(theta: torch.Tensor) -> float:
        there = bilevel.at(theta)
        moved = solver(there, there.start).value - there.start
        return float(moved.norm() / there.inner_grad(there.start).norm())

    u = torch.randn(bilevel.meta.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ends = [bilevel.meta + 0.05 * k * u for k in range(400)]
    a, b = next((a, b) for a, b in pairwise(ends) if abs(length(a) / length(b) - 1) > 0.1)
    for _ in range(60):
        middle = (a + b) / 2
        a, b = (middle, b) if abs(length(middle) / length(a) - 1) < 0.1 else (a, middle)
    at = bilevel.at(a)
    method = {"name": "maml-line-search", "inner": {"name": "armijo", "steps": 1, "tolerance": 0.0}}
    found = switches.observe(prepared(at, method), at)
    assert found["jump"] == pytest.approx([0.5], rel=0.05)
    assert found["growth"][0] > 1e3
    assert found["mismatch"][0][-1] > 1e2  # the finite difference of a jump grows as 1 / distance


def test_unrolling_hessian_free_is_declined() -> None:
    with pytest.raises(Declined, match="hessian_free"):
        build("method", {"name": "maml-line-search", "inner": "hessian_free"})(regression())


def test_the_record_of_the_pass_has_its_shape_and_its_columns() -> None:
    table_ = {"name": "maml-line-search", "inner": {"name": "armijo", "steps": 3}}
    record = run_cell(cell(table_, LINEAR, n_tasks=2, passes=["accuracy", "switches"]), "s")
    assert shape_fault(record) is None
    again = run_cell(cell(table_, LINEAR, n_tasks=2, passes=["accuracy", "switches"]), "s")
    assert again["switches"] == record["switches"]
    frame = table.frame([record])
    assert frame["switches.jump"].tolist() == record["switches"]["jump"]
    assert frame["switches.mismatch.0.01"].tolist() == [r[1] for r in record["switches"]["mismatch"]]
    broken = record | {"switches": record["switches"] | {"jump": [0.0]}}
    assert "switches" in str(shape_fault(broken))


# --- the verdict, from records of known numbers


def records() -> list[dict]:
    """Float64 loses no search, float32 some by chance; jumps by chance; the unrolled error is the larger."""
    rng = np.random.default_rng(7)
    made = []
    for problem in (fake.LINEAR, fake.SINUSOID):
        for inner in SOLVERS:
            for dtype in ("float64", "float32"):
                methods = ["imaml"] + ["maml-line-search"] * (dtype == "float64" and inner != "hessian_free")
                shared: dict = {}
                for name in methods:
                    solver = {"name": inner, "steps": 10}
                    method = (fake.imaml() if name == "imaml" else {"name": name}) | {"inner": solver}
                    for record in fake.records([problem], [method], dtype=dtype, passes=["accuracy"]):
                        n, seed = record["cell"]["n_tasks"], record["cell"]["seed"]
                        if seed not in shared:
                            flat = rng.integers(0, 3, n) * (dtype == "float32")
                            shared[seed] = {
                                "line_search_accepted": [10.0] * n,
                                "line_search_failures": [0.0] * n,
                                "line_search_flat": flat.astype(float).tolist(),
                                "line_search_promise": np.where(
                                    flat > 0, rng.choice([0.1, 0.2, 3.0], n), 9e4
                                ).tolist(),
                            }
                            if inner == "hessian_free":
                                shared[seed]["negative_curvature"] = (
                                    rng.integers(0, 2, n).astype(float).tolist()
                                )
                                shared[seed]["no_descent"] = [1.0] * n
                            jump = rng.random(n) * (rng.random(n) < 0.4)
                            shared[seed, "jump"] = jump.tolist()
                        accuracy = record["accuracy"] | {"stats": shared[seed]}
                        errors = (rng.random(n) * (2 if name == "imaml" else 3)).tolist()
                        record = fake.with_errors(record | {"accuracy": accuracy}, "implicit", errors)
                        if dtype == "float64":
                            record["switches"] = {
                                "distances": [1e-1, 1e-2, 1e-5],
                                "mismatch": rng.random((n, 3)).tolist(),
                                "jump": shared[seed, "jump"], "growth": [5.0] * n,
                            }  # fmt: skip
                        made.append(record)
    made[0] = made[0] | {"status": "not_converged", "reason": {"message": "not converged in all tasks"}}
    return made


@pytest.fixture(scope="module")
def some() -> list[dict]:
    return records()


def said(some: list[dict]) -> dict[tuple[str, str], str]:
    ((_, found),) = drawn.verdicts(table.frame(some))
    return {(v.problem, item.term): item.text for v in found for item in v.items}


def solves(some: list[dict]) -> pd.DataFrame:
    """One row a task of an inner solve, straight from the records."""
    rows = []
    for r in some:
        for t in range(r["cell"]["n_tasks"]):
            stats = {k: v[t] for k, v in r["accuracy"]["stats"].items()} if r.get("accuracy") else {}
            looked = r.get("switches")
            rows.append(
                {
                    "problem": str(sorted(r["cell"]["problem"].items(), key=str)), "seed": r["cell"]["seed"],
                    "inner": str(r["cell"]["method"].get("inner")), "dtype": r["cell"]["dtype"], "task": t,
                    "solver": (r["cell"]["method"].get("inner") or {}).get("name"),
                    "method": r["cell"]["method"]["name"], "jump": looked["jump"][t] if looked else None,
                    "near": looked["mismatch"][t][-1] if looked else None,
                    "error": (r["accuracy"]["references"]["implicit"].get("relative_error") or [None] * 99)[t]
                    if r.get("accuracy") else None,
                } | stats
            )  # fmt: skip
    return pd.DataFrame(rows)


def percents(text: str) -> list[tuple[float, int]]:
    parts = re.findall(r"([\d.e+-]+) % \[[^\]]*\] of ([\d,]+) tasks", text)
    return [(float(share), int(n.replace(",", ""))) for share, n in parts]


def check_answer(some: list[dict]) -> None:
    """The verdict's first sentences are what a few lines of pandas give."""
    rows = solves(some)
    key = ["problem", "seed", "inner", "dtype", "task"]
    searched = rows[(rows["line_search_accepted"] + rows["line_search_failures"]) > 0].drop_duplicates(key)
    lost = searched["line_search_failures"] + searched["line_search_flat"] > 0
    text = said(some)["all problems", "Why it fails"]
    order = [d for d in ("float64", "float32", "bfloat16") if (searched["dtype"] == d).any()]
    wanted = [(100 * lost[searched["dtype"] == d].mean(), int((searched["dtype"] == d).sum())) for d in order]
    promised = searched[lost & searched["line_search_promise"].notna()]["line_search_promise"]
    wanted.append((100 * (promised < 1).mean(), len(promised)))
    looked = rows[rows["jump"].notna() & (rows["solver"] != "gradient_descent")].drop_duplicates(key)
    wanted.append((100 * (looked["jump"] > 0).mean(), len(looked)))
    assert percents(text) == [(pytest.approx(share, rel=6e-3, abs=1e-9), n) for share, n in wanted]
    total = int((searched["line_search_accepted"] + searched["line_search_failures"]).sum())
    assert f"{total:,} searches" in text
    low, high = scipy.stats.binomtest(int((promised < 1).sum()), len(promised)).proportion_ci(method="wilson")
    assert f"[{100 * low:.3g}, {100 * high:.3g}]" in text or (promised < 1).all()
    assert text.startswith("Because the decrease of G is lost in rounding") == (low > 0.5)


def test_the_answer_is_what_a_few_lines_of_pandas_give(some) -> None:
    check_answer(some)


def test_each_mechanism_has_its_numbers(some) -> None:
    rows, texts = solves(some), said(some)
    free = rows[(rows["solver"] == "hessian_free") & (rows["dtype"] == "float64")]
    text = texts["all problems", "Indefinite directions, in float64"]
    assert percents(text) == [
        (pytest.approx(100 * (free["negative_curvature"] > 0).mean(), rel=6e-3), len(free))
    ]
    assert f"({int(free['no_descent'].sum())} steps not downhill)" in text
    unrolled = rows[rows["method"] == "maml-line-search"]
    for inner, name in (("armijo", "Armijo"), ("lbfgs", "L-BFGS")):
        mine = unrolled[unrolled["solver"] == inner]
        text = texts["all problems", "What unrolling with constant step lengths drops"]
        (part,) = (p for p in text.split("; ") if p.startswith(name))
        assert float(re.split("[ [(]", part.removeprefix(name + " "))[0]) == pytest.approx(
            mine["near"].median(), rel=0.05
        )
        key = ["problem", "seed", "inner", "dtype", "task"]
        both = mine.merge(rows[rows["method"] == "imaml"], on=key)
        text = texts["all problems", "Median error to the implicit gradient, unrolled against implicit"]
        (part,) = (p for p in text.split("; ") if p.startswith(name))
        assert percents(part) == [
            (pytest.approx(100 * (both["error_x"] < both["error_y"]).mean(), rel=6e-3), len(both))
        ]


def test_figures_tables_and_page(some) -> None:
    spec = fake.spec("line_search", figure="line_search")
    first, second = figures.draw(spec, table.frame(some)).values()
    assert len(first.figure.axes) == len(second.figure.axes) == 4
    assert [t.get_text() for t in first.figure.legends[0].get_texts()] == list(SOLVERS.values())
    looks = list(drawn.LOOKS.values())
    assert len({look.marker for look in looks}) == len(looks)  # readable without colour
    linear, _ = drawn.tables(table.frame(some))
    assert [(r["method"], r["axes"][0]) for r in linear["rows"]][:2] == [
        ("Armijo", "float64"),
        ("Armijo", "float32"),
    ]
    page = report.render([(spec, some)])
    assert "Why it fails" in page


def test_the_words_follow_the_numbers(some) -> None:
    """Nothing lost: it does not fail. Lost at a large promise: not by rounding."""

    def with_stats(change) -> list[dict]:
        return [
            r | {"accuracy": r["accuracy"] | {"stats": r["accuracy"]["stats"] | change(r["cell"]["n_tasks"])}}
            for r in some
        ]

    fine = said(with_stats(lambda n: {"line_search_flat": [0.0] * n}))
    assert fine["all problems", "Why it fails"].startswith("It does not fail: no search of")
    other = said(with_stats(lambda n: {"line_search_flat": [1.0] * n, "line_search_promise": [50.0] * n}))
    assert other["all problems", "Why it fails"].startswith("Not by rounding alone")


def test_little_or_nothing_gives_honest_words(some) -> None:
    bare = fake.records([fake.LINEAR], [fake.imaml()], passes=["accuracy"])
    failed = [fake.failing(r, "error") for r in some]
    for nothing, words in ((bare, "no line search measured"), (failed, "no cell ended well")):
        assert list(said(nothing).values()) == ["No line search was measured."]
        (figure,) = drawn.draw(table.frame(nothing))
        assert words in [t.get_text() for t in figure.axes[0].texts]
        assert drawn.tables(table.frame(nothing)) == []
    assert drawn.verdicts(table.frame([]))
    one = [r for r in some if r["cell"]["seed"] == 0]
    check_answer(one)
    alone = [fake.without_reference(r, "implicit", "indefinite") for r in some]
    texts = said(alone)
    assert not [term for _, term in texts if term.startswith("Median error")]
    check_answer(alone)
    for records_ in (one, alone):
        assert drawn.draw(table.frame(records_))


def test_a_real_run_finds_rounding_in_float32_and_none_in_float64() -> None:
    made = []
    for inner in SOLVERS:
        for dtype, tolerance in (("float64", 1e-6), ("float32", 0.0)):
            solver = {"name": inner, "steps": 30, "tolerance": tolerance}
            one = cell(fake.imaml() | {"inner": solver}, LINEAR, dtype=dtype)
            made.append(run_cell(one, "line_search"))
    text = said(made)["all problems", "Why it fails"]
    assert text.startswith(
        "Because the decrease of G is lost in rounding: tasks that lost a search are float64 0 %"
    )
    assert "float32 100 %" in text


def test_the_study_can_be_planned() -> None:
    cells = expand(load(shipped()["line_search"]))
    assert len({c.id for c in cells}) == len(cells)
    assert {c.description["dtype"] for c in cells} == {"float64", "float32", "bfloat16"}


def test_the_reference_records_say_what_their_verdict_says() -> None:
    if not (REFERENCE / "line_search").exists():
        pytest.skip("no reference records of line_search yet")
    check_answer(list(Store(REFERENCE, "line_search").records()))
