"""Is it numerical? What the verdicts of four studies say, recomputed from the records in a few lines each."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis import figures, table
from analysis.verdict import Verdict
from bench.record import Store
from bench.spec import load
from tests import fake_records as fake
from tests.reference_records import REFERENCE, records
from tests.test_precision_figures import MAML, certified


def rows(study: str) -> pd.DataFrame:
    """A row for every task of every record that ended well, from the stored texts alone."""
    made = []
    for record in records(study):
        if record["status"] != "ok":
            continue
        of, references = record["cell"], record["accuracy"]["references"]
        errors = {name: references[name].get("relative_error") for name in ("maml", "implicit")}
        for task in range(of["n_tasks"]):
            row = {name: None if e is None else e[task] for name, e in errors.items()}
            proofs = (record.get("certified") or {}).get("tasks")
            split = proofs[task].get("references", {}).get("implicit", {}) if proofs else {}
            row |= {key: split[key]["upper"] for key in ("rounding", "truncation") if key in split}
            method, problem = of["method"], of["problem"]
            row |= {"problem": problem["name"], "scale": problem.get("input_scale", 1.0)}
            row |= {"method": method["name"], "parts": parts(method), "dtype": of["dtype"]}
            inner = method.get("inner", {})
            row |= {"K": inner.get("steps"), "rate": inner.get("learning_rate")}
            made.append(row | {"late": method.get("unroll_from"), "seed": of["seed"], "task": task})
    return pd.DataFrame(made)


def parts(method: dict) -> str:
    """What of a method is in another precision."""
    names = {key: (method.get(key) or {}).get("name") for key in ("inner", "linear", "curvature")}
    found = [key for key, name in names.items() if name == "in_dtype"]
    found += ["gradients"] if names["inner"] == "gradients_in" else []
    return ", ".join([*found, *(["dots"] if (method.get("linear") or {}).get("dots") else [])])


def said(study: str) -> list[Verdict]:
    frame = table.frame(Store(REFERENCE, study).records())
    ((_, found),) = figures.module(load(REFERENCE / study / f"{study}.toml")).verdicts(frame)
    return found


def text_of(study: str) -> str:
    (first, *_) = said(study)
    return first.items[0].text


def test_precision_from_which_step_on_the_gap_is_rounding() -> None:
    found = rows("precision").query("method == 'maml'")
    found["share"] = found["rounding"] / (found["rounding"] + found["truncation"])
    share = found.groupby(["problem", "dtype", "K"])["share"].median().unstack()
    text = text_of("precision")
    for (problem, dtype), at in share.iterrows():
        here = re.split(r"; on ", text.partition("is rounding on ")[2])
        (mine,) = [part for part in here if part.startswith(problem.replace("_", " "))]
        over = at[at > 0.5]
        if over.empty:
            assert f"at none of up to 100 steps in {dtype}" in mine
        else:
            steps, percent = over.index[0], 100 * over.iloc[0]
            (number,) = re.findall(rf"from {steps} steps? on in {dtype} \(([\d.]+) %", mine)
            assert float(number) == pytest.approx(percent, abs=0.06 * (100 - percent) + 1e-7)
    assert len(share) == 8


def test_precision_every_share_is_that_of_the_two_distances() -> None:
    found = rows("precision").query("method == 'maml' and dtype == 'float32'")
    share = (
        (found["rounding"] / (found["rounding"] + found["truncation"]))
        .groupby([found["problem"], found["K"]])
        .median()
    )
    for verdict in said("precision")[1:]:
        (text,) = [i.text for i in verdict.items if i.methods == "MAML, adjoint, float32"]
        for steps, number in re.findall(r"at (\d+) steps? is ([\d.e-]+) %", text):
            wanted = 100 * share[verdict.problem.replace(" ", "_"), int(steps)]
            assert float(number) == pytest.approx(wanted, abs=0.06 * min(wanted, 100 - wanted) + 1e-7)


def test_precision_where_errors_stop_falling() -> None:
    found = rows("precision").query("method == 'maml' and problem == 'linear_regression'")
    error = found.groupby(["dtype", "K"])["implicit"].median().unstack()
    (text,) = [
        i.text
        for i in said("precision")[1].items
        if i.methods == "MAML, adjoint" and "falls no more" in i.term
    ]
    for dtype, at in error.iterrows():
        first = at[at <= 2 * at.min()].index[0]
        assert re.search(rf"\b{dtype} from {first} steps? on", text), text


def test_data_scale_the_range_of_rounding() -> None:
    found = rows("data_scale").query("method == 'maml'")
    error = found.groupby(["problem", "dtype", "scale"])["maml"].median().unstack()
    text = text_of("data_scale")
    for (problem, dtype), at in error.iterrows():
        (mine,) = [
            p for p in re.split(r"\. And on |inputs on ", text) if p.startswith(problem.replace("_", " "))
        ]
        pattern = (
            rf"in {dtype} from ([\d.e-]+) \[[^\]]*\] \(at ([\d.]+)\) to ([\d.e-]+) \[[^\]]*\] \(at ([\d.]+)\)"
        )
        low, at_low, high, at_high = map(float, re.findall(pattern, mine)[0])
        assert (at_low, at_high) == (at.idxmin(), at.idxmax())
        np.testing.assert_allclose([low, high], [at.min(), at.max()], rtol=0.06)


def test_unrolling_where_the_error_rises() -> None:
    found = rows("unrolling").query("method == 'maml' and dtype == 'float64'")
    error = found.groupby(["problem", "rate", "K"])["implicit"].median().unstack()
    text = text_of("unrolling")
    rising = error[(error.max(axis=1) > 1.5 * error[1])]
    assert len(rising) == text.count("at inner step")
    for (_, rate), at in rising.iterrows():
        (pair,) = re.findall(
            rf"inner step {rate:.3g}, from ([\d.]+) \[[^\]]*\] at K = 1 "
            rf"to ([\d.]+) \[[^\]]*\] at K = {at.idxmax()}",
            text,
        )
        np.testing.assert_allclose([float(x) for x in pair], [at[1], at.max()], rtol=0.06)


def test_mixed_what_the_inner_solve_in_float64_leaves() -> None:
    found = rows("mixed").query("method == 'imaml' and problem == 'sinusoid'")
    keys = ["dtype", "seed", "task"]
    plain, inner = (found[found["parts"] == of].set_index(keys)["implicit"] for of in ("", "inner"))
    left = (inner / plain).dropna().groupby("dtype").median()
    (verdict,) = [v for v in said("mixed") if v.problem == "sinusoid"]
    for dtype, wanted in left.items():
        (text,) = [i.text for i in verdict.items if i.methods == f"iMAML, CG 20, {dtype}"]
        (number,) = re.findall(r" inner ([\d.]+) \[", text)
        assert float(number) == pytest.approx(wanted, rel=0.006)


@pytest.mark.parametrize("study", ["precision", "data_scale", "unrolling", "mixed"])
def test_words_where_next_to_nothing_is_known(study: str) -> None:
    """One seed, one method, nothing certified; and only failures."""
    spec = fake.spec("study", figure=study)
    for status in ("ok", "non_finite"):
        some = [r | {"status": status} for r in fake.records([fake.LINEAR], [MAML], [1, 10], [0])]
        if status != "ok":
            some = [r | {"accuracy": None, "reason": {"message": "not finite"}} for r in some]
        ((_, found),) = figures.module(spec).verdicts(table.frame(some))
        assert found[0].items[0].text.endswith(".")
        assert "nan" not in " ".join(i.text for v in found for i in v.items)


def test_a_planted_floor_of_rounding_is_found() -> None:
    """Truncation 10^-K, rounding 1e-6 in float32: over half of it rounding from K = 10 on."""
    some = []
    for record in fake.records([fake.LINEAR], [MAML], [1, 5, 10, 100], dtype="float32"):
        truncation = 10.0 ** -record["cell"]["method"]["inner"]["steps"]
        some.append(certified(record, [1e-6] * 4, [truncation] * 4))
    ((_, found),) = figures.module(fake.spec("study", figure="precision")).verdicts(table.frame(some))
    assert "from 10 steps on in float32 (99.99 % there)" in found[0].items[0].text
