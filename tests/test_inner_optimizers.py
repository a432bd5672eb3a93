"""Inner optimizers at equal error: who reaches it, at what cost, against an independent calculation."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import figures, inner_optimizers, report, table
from analysis.figures import inner_optimizers as drawn
from bench.cells import expand
from bench.record import Store
from bench.run import run_cell
from bench.spec import load, shipped
from tests import fake_records as fake
from tests.toy_cells import cell

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
NAMES = {
    "gradient_descent": "gradient descent", "nesterov": "Nesterov", "momentum": "momentum", "adam": "Adam",
    "lbfgs": "L-BFGS", "hessian_free": "Hessian-free", "armijo": "Armijo",
}  # fmt: skip
FAMILY = {"maml": "MAML", "maml-line-search": "MAML", "imaml": "iMAML"}
TARGETS = (0.1, 0.01)
STEPS = (2, 5, 10, 20)
RATES = {"gradient_descent": 0.15, "nesterov": 0.5, "adam": 0.06, "hessian_free": 2.0}  # of the error's fall
SECONDS = {"gradient_descent": 1.0, "nesterov": 1.1, "adam": 1.4, "hessian_free": 6.0}  # a step


def records() -> list[dict]:
    """Errors exp(-rate K), times in proportion to K; Hessian-free cells do not converge, Adam is slow."""
    rng = np.random.default_rng(3)
    made = []
    for problem in (fake.LINEAR, fake.SINUSOID):
        for name, rate in RATES.items():
            for method in ({"name": "maml", "backward": "adjoint"}, fake.imaml()):
                if method["name"] == "maml" and name == "hessian_free":
                    continue
                for k in STEPS:
                    inner = {"name": name, "steps": k}
                    passes = ["accuracy", "time", "tensor_bytes"]
                    for record in fake.records([problem], [method | {"inner": inner}], [k], passes=passes):
                        errors = np.exp(-rate * k + rng.normal(0, 0.1, record["cell"]["n_tasks"]))
                        record = fake.with_errors(record, "implicit", errors.tolist())
                        samples = SECONDS[name] * k * np.exp(rng.normal(0, 0.02, 10))
                        time = {"samples_s": samples.tolist(), "cpu_s": (1.5 * samples).tolist()}
                        record = record | {"time": record["time"] | time}
                        if name == "hessian_free":
                            why = {"message": "not converged in all tasks", "type": "Estimate"}
                            record = record | {"status": "not_converged", "reason": why}
                        made.append(record)
    return made


@pytest.fixture(scope="module")
def some() -> list[dict]:
    return records()


def said(some: list[dict]) -> dict[tuple[str, str, str], tuple[str, str]]:
    ((_, found),) = drawn.verdicts(table.frame(some))
    return {(v.problem, v.setting, item.term): (item.methods, item.text) for v in found for item in v.items}


def independent(some: list[dict]) -> pd.DataFrame:
    """For each problem, family, optimizer, target: the first K below it and median costs."""
    rows = []
    for r in some:
        method = r["cell"]["method"]
        if r["status"] not in ("ok", "not_converged") or not r.get("accuracy"):
            continue
        errors = r["accuracy"]["references"]["implicit"].get("relative_error") or []
        rows.append(
            {
                "problem": str(sorted(r["cell"]["problem"].items(), key=str)),
                "family": FAMILY[method["name"]],
                "optimizer": NAMES[method["inner"]["name"]], "K": method["inner"]["steps"],
                "errors": [e for e in errors if e is not None],
                "seconds": np.median(r["time"]["samples_s"]) if r.get("time") else np.nan,
                "cpu": np.median(r["time"]["cpu_s"]) if r.get("time") else np.nan,
            }
        )  # fmt: skip
    by_k = pd.DataFrame(rows).groupby(["problem", "family", "optimizer", "K"], sort=False)
    found = by_k.agg(
        seconds=("seconds", "median"), cpu=("cpu", "median"), errors=("errors", "sum")
    ).reset_index()
    found["error"] = [np.median(errors) if errors else np.nan for errors in found["errors"]]
    first = []
    for target in TARGETS:
        below = found[found["error"] < target].sort_values("K")
        head = below.groupby(["problem", "family", "optimizer"], sort=False).first().reset_index()
        first.append(head.assign(target=target))
    return pd.concat(first)


def check_answer(some: list[dict]) -> None:
    """The verdict's first sentence is what a few lines of pandas give."""
    wanted = independent(some)
    _, text = said(some)["all problems", "", "Cheapest at equal error"]
    for measure, part in (("seconds", text.split("; ")[0]), ("cpu", text.split("; ")[1])):
        known = wanted[wanted[measure].notna()].sort_values(measure)
        winners = known.groupby(["problem", "family", "target"])["optimizer"].first()
        counts = winners.value_counts()
        first = re.match(r"(.+?) (?:is|takes) .* in (\d+) of (\d+)", part)
        assert first is not None
        assert int(first[2]) == counts.iloc[0]
        assert counts[first[1] if first[1] in counts else first[1].lower()] == counts.iloc[0]
        assert int(first[3]) == len(winners)


def test_the_answer_is_what_a_few_lines_of_pandas_give(some) -> None:
    check_answer(some)
    _, text = said(some)["all problems", "", "Cheapest at equal error"]
    assert text.startswith("Nesterov is the fastest in ")


def test_steps_costs_and_multiples_are_those_of_the_records(some) -> None:
    """exp(-0.15 K) is below 0.1 from K = 15.4 on, swept: 20; exp(-0.5 K) from 4.6 on: 5; 1 % from 9.2: 10."""
    texts = said(some)
    name, text = texts["linear regression", "iMAML, error below 10 %", "Fastest"]
    assert name == "Nesterov"
    assert text.startswith(" at K = 5 with 0.08")
    assert "(12 tasks, 3 seeds)" in text
    ratio = re.search(r"Against gradient descent \(K = 20\): (\S+) \[(\S+), (\S+)\] times its time", text)
    assert ratio is not None
    mine = [r for r in some if r["cell"]["problem"] == fake.LINEAR and r["cell"]["method"]["name"] == "imaml"]

    def seconds(inner: str, k: int) -> dict[int, float]:
        return {
            r["cell"]["seed"]: float(np.median(r["time"]["samples_s"]))
            for r in mine
            if (r["cell"]["method"]["inner"]["name"], r["cell"]["method"]["inner"]["steps"]) == (inner, k)
        }

    fast, slow = seconds("nesterov", 5), seconds("gradient_descent", 20)
    quotients = [fast[seed] / slow[seed] for seed in fast]
    assert float(ratio[1]) == pytest.approx(np.median(quotients), rel=0.03)
    assert float(ratio[2]) <= float(ratio[1]) <= float(ratio[3])
    _, missed = texts["linear regression", "iMAML, error below 1 %", "Do not get there"]
    assert re.search(r"gradient descent does not reach it: 5\.?\d* % at K = 20", missed)
    assert re.search(r"Adam does not reach it: \d+ % at K = 20", missed)
    _, other = texts["sinusoid", "MAML, error below 10 %", "Do not get there"]
    assert "Hessian-free not measured with it" in other


def test_tables_have_every_optimizer_and_its_steps(some) -> None:
    first, _ = drawn.tables(table.frame(some))
    wanted = independent(some)
    wanted = wanted[wanted["problem"] == str(sorted(fake.LINEAR.items(), key=str))]
    keyed = wanted.set_index(["family", "optimizer", "target"])["K"].to_dict()
    for row in first["rows"]:
        family, target, steps = row["axes"]
        k = keyed.get((family, row["method"], float(target.removesuffix(" %")) / 100))
        assert steps == ("" if k is None else str(k))
        assert bool(row["failed"]) == (k is None)
    assert len(first["rows"]) == 2 * 2 * 4


def test_figures_and_page(some) -> None:
    spec = fake.spec("inner_optimizers", figure="inner_optimizers")
    first, second = figures.draw(spec, table.frame(some)).values()
    assert len(first.figure.axes) == 4
    assert [t.get_text() for t in first.figure.legends[0].get_texts()] == [
        "gradient descent", "Nesterov", "Adam", "Hessian-free",
    ]  # fmt: skip
    assert len(second.figure.axes) == 4  # nothing has a resident peak
    looks = list(drawn.LOOKS.values())
    assert len({look.marker for look in looks}) == len(looks)  # readable without colour
    assert "Cheapest at equal error" in report.render([(spec, some)])


def test_little_or_nothing_gives_honest_words(some) -> None:
    nothing = "No verdict: no inner optimizer has both an error and a cost."
    failed = [fake.failing(r, "error") for r in some]
    other = fake.records([fake.LINEAR], [fake.FOMAML])
    for none in (failed, other, []):
        assert said(none)["all problems", "", "Cheapest at equal error"][1] == nothing
        if none:
            (figure,) = drawn.draw(table.frame(none))
            words = "no cell ended well" if none is failed else "no inner optimizer with error and time"
            assert words in [t.get_text() for t in figure.axes[0].texts]
    _, text = said(failed)["linear regression", "iMAML, error below 10 %", "Do not get there"]
    assert "gradient descent has no error: made to end as error" in text
    one = [r for r in some if r["cell"]["seed"] == 0]
    check_answer(one)
    assert drawn.draw(table.frame(one))
    lost = [fake.without_reference(r, "implicit", "indefinite") for r in some]
    _, text = said(lost)["sinusoid", "MAML, error below 1 %", "Do not get there"]
    assert "Nesterov has no error: indefinite" in text
    assert drawn.draw(table.frame(lost))


def test_newton_reaches_a_quadratic_in_one_step_and_gradient_descent_in_those_of_theory() -> None:
    """With step 2 / (L + mu) the distance falls by (kappa - 1) / (kappa + 1) a step: 5 / 7 at 6."""
    problem = {"name": "linear_regression", "dim": 8, "condition": 6.0, "strength": 2.0}
    dense = {"linear": {"name": "conjugate_gradient", "iterations": 8}}
    solve = {"name": "hessian_free", "steps": 1, "linear": {"name": "conjugate_gradient", "iterations": 8}}
    made = [run_cell(cell({"name": "imaml", "inner": solve, **dense}, problem), "study")]
    for k in (1, 20):
        inner = {"name": "gradient_descent", "steps": k, "learning_rate": 2 / 14}
        made.append(run_cell(cell({"name": "imaml", "inner": inner, **dense}, problem), "study"))
    here = inner_optimizers.prepared(table.frame(made))
    found = {
        (one.optimizer, one.target): one.steps
        for comparison in inner_optimizers.comparisons(here, (1e-1, 1e-2))
        for one in comparison
    }
    assert found["Hessian-free", 1e-2] == 1
    assert found["gradient descent", 1e-2] == 20  # (5 / 7)^20 = 1.2e-3, (5 / 7)^1 = 0.71


def test_the_study_can_be_planned() -> None:
    cells = expand(load(shipped()["inner_optimizers"]))
    assert len({c.id for c in cells}) == len(cells)
    solvers = {c.description["method"]["inner"]["name"] for c in cells}
    assert solvers == set(NAMES) - {"armijo"}


def test_the_reference_records_say_what_their_verdict_says() -> None:
    if not (REFERENCE / "inner_optimizers").exists():
        pytest.skip("no reference records of inner_optimizers yet")
    check_answer(list(Store(REFERENCE, "inner_optimizers").records()))
