"""The answers in one sentence on the reference records, recomputed from their texts in a few lines each."""

import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from analysis import answers, figures, table
from bench.record import Store
from bench.spec import load
from tests.reference_records import REFERENCE, records
from tests.test_answers import agree, methods, number, said, same

STUDIES = ("accuracy_vs_steps", "estimators", "cost_vs_steps", "libraries", "peers", "scaling")


@cache
def sentence(study: str) -> str:
    ((item,), *_) = (one.items for one in said(study))
    assert item.term == "In a sentence"
    return item.text


@cache
def cells(study: str) -> pd.DataFrame:
    """Method, engine, problem, K and time next to first-order MAML of every cell that ended well."""
    made = []
    for record in records(study):
        if record["status"] == "ok" and (time := record.get("time")):
            of = record["cell"]
            ratio = np.median(np.divide(time["samples_s"], time["reference_s"]))
            kernels = record.get("engine")
            eager = kernels is not None and all("eager" in one for one in kernels.values())
            engine = of.get("engine", "eager") + (" (ran eager)" if kernels is not None and eager else "")
            row = {
                "method": of["method"]["name"],
                "engine": engine,
                "ratio": ratio,
                "family": of["method"]["name"],
            }
            steps = of["method"].get("inner", of["method"]).get("steps")
            made.append(row | {"problem": of["problem"]["name"], "K": steps})
    return pd.DataFrame(made)


@pytest.mark.parametrize("study", ["accuracy_vs_steps", "estimators"])
def test_the_approximation_that_comes_closest(study: str) -> None:
    wanted = []
    for _, here in methods(study).groupby("problem", sort=False):
        some = here[~here["exact"] & (here["K"] >= 0) & here["maml"].notna()]
        for k in dict.fromkeys([some["K"].min(), some["K"].max()]):
            wanted.append((k, some.loc[some["K"] == k, "maml"].min()))
    found = re.findall(r"after (\d+) inner steps? .*? with ([\d.e+-]+) ", sentence(study))
    assert wanted
    agree([(int(k), float(x)) for k, x in found], wanted, 2)


@pytest.mark.parametrize(
    ("words", "column"), [("time", "seconds"), ("peak tensor bytes", "bytes"), ("oracle calls", "calls")]
)
def test_by_which_factors_costs_grow(words: str, column: str) -> None:
    found = re.findall(
        rf"in {words} by a factor of ([\d.]+) \(.*?\) to ([\d.]+) \(", sentence("cost_vs_steps")
    )
    problems = [here for _, here in methods("cost_vs_steps").groupby("problem", sort=False)]
    assert len(found) == len(problems)
    for pair, here in zip(found, problems, strict=True):
        by = here.pivot_table(index="method", columns="K", values=column).sort_index(axis=1)
        factors = by.iloc[:, -1] / by.iloc[:, 0]
        assert same(float(pair[0]), factors.min(), 3)
        assert same(float(pair[1]), factors.max(), 3)


def test_which_libraries_agree() -> None:
    errors: dict[tuple[str, str], list[float]] = {}
    for record in records("libraries"):
        if record["status"] == "ok":
            key = record["cell"]["method"]["name"], record["cell"]["problem"]["name"]
            errors.setdefault(key, []).extend(record["accuracy"]["references"]["maml"]["relative_error"])
    medians = {key: np.median(values) for key, values in errors.items()}
    text = sentence("libraries")
    exact = {key: m for key, m in medians.items() if key[0].startswith("maml-")}
    assert max(exact.values()) < 3.5e-4
    assert same(number(text, "relative error at most "), max(exact.values()), 2)
    agreeing = text.partition("give the same")[0]
    assert all(name.partition("-")[2] in agreeing.lower() for name, _ in exact)
    for library in ("betty", "hypergrad"):
        worst = max(m for (name, _), m in medians.items() if name == f"imaml-{library}")
        assert same(number(text.partition("farther away")[2], f"{library} ("), worst, 2)


def test_how_often_the_time_of_jax() -> None:
    found = cells("peers")
    found["family"] = found["method"].str.partition("-")[0]
    jax = found[found["method"].str.endswith("-jax")].groupby(["problem", "family", "K"])["ratio"].median()
    key = pd.MultiIndex.from_frame(found[["problem", "family", "K"]])
    found["to_jax"] = found["ratio"].to_numpy() / jax.reindex(key).to_numpy()
    text = sentence("peers")
    for library, mine in (
        ("metabench, compiled", found[(found["engine"] == "compiled") & ~found["method"].str.contains("-")]),
        ("C++", found[found["method"].str.endswith("-cpp")]),
        ("jaxopt", found[found["method"].str.endswith("-jaxopt")]),
    ):
        after = text.partition(f"{library} ")[2]
        low, high = re.match(r"([\d.]+) \[[^]]*\] \(.*?\) to ([\d.]+) \[", after).groups()  # type: ignore[union-attr]
        by_row = mine.groupby(["problem", "family", "K"])["to_jax"].median()
        assert same(float(low), by_row.min(), 3)
        assert same(float(high), by_row.max(), 3)


def test_exponents_are_slopes_on_logarithmic_axes() -> None:
    """Of the time of exact MAML in eager mode with K, by the ratio to a reference that has the same K."""
    found = answers.exponents(table.frame(Store(REFERENCE, "scaling", moves=False).records()))
    text = sentence("scaling")
    for (cost, axis), mine in found.groupby(["cost", "axis"]):
        of_cost = text.partition(f"{cost} grows as the power ")[2].partition(";")[0]
        low, high = re.search(rf"(-?[\d.]+) \([^()]*\) to (-?[\d.]+) \([^()]*\) of {axis}", of_cost).groups()  # type: ignore[union-attr]
        assert float(low) == pytest.approx(mine["exponent"].min(), abs=0.00501)
        assert float(high) == pytest.approx(mine["exponent"].max(), abs=0.00501)


@pytest.mark.parametrize("study", STUDIES)
def test_where_nothing_ended_well_the_sentence_says_so(study: str) -> None:
    own = figures.module(load(REFERENCE / study / f"{study}.toml"))
    frame = table.frame(records(study)[:40]).assign(status="error")
    assert own.answer(frame) in ("No cell ended well.", "Nothing was timed next to JAX.")
