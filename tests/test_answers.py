"""What the verdicts on the reference records say, recomputed from the stored texts in a few lines each.

Nothing here goes through the tidy frame: a record is a dict, a median numpy's. Which label stands for which
cells is not asked; a verdict's numbers at a number of inner steps are compared with those found there. The
studies of precision are in test_numerical, and later ones have tests of their own.
"""

import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis import figures, report, table
from analysis.verdict import Verdict
from bench.record import Store
from bench.spec import load
from tests.reference_records import REFERENCE, records

ELSEWHERE = {
    "test_numerical": ("precision", "data_scale", "unrolling", "mixed"),
    "test_inner_steps": ("inner_steps",),
    "test_failure_atlas": ("failure_atlas",),
    "test_inner_optimizers": ("inner_optimizers",),
    "test_line_search": ("line_search",),
    "test_stability": ("stability",),
}
HERE = ("accuracy_vs_steps", "cost_vs_steps", "estimators", "libraries", "peers", "scaling")
HERE += ("assumptions", "outer_optimizers")
UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "": 1.0}
NUMBER = r"(\d[\d.,]*(?:e[+-]\d+)?)(?: (µs|ms|s|B|KiB|MiB|GiB)\b)?"
LINEAR = {"activation": "linear"}  # where a problem has no network
EPS = {"float64": 1.5e-8, "float32": 3.5e-4}  # square roots, up to which an error is rounding


def present(study: str) -> None:
    if not (REFERENCE / study).is_dir():
        pytest.skip(f"there are no reference results of {study} yet")


@cache
def said(study: str) -> list[Verdict]:
    spec = load(REFERENCE / study / f"{study}.toml")
    own = figures.module(spec)
    frame = table.frame(Store(REFERENCE, study, moves=False).records())
    return [one for _, some in report.verdicts(own, frame) for one in some]


@cache
def methods(study: str) -> pd.DataFrame:
    """A row for every problem, number of steps and method with its settings: medians of what ended well."""
    tasks, cells = [], []
    for record in records(study):
        of = record["cell"]
        method = json.loads(json.dumps(of["method"]))
        steps = [part.pop("steps", None) for part in (method.get("inner", {}), method)]
        settings = {
            k: v for k, v in of.items() if k not in ("problem", "method", "seed", "passes", "repeats")
        }
        kernels = record.get("engine")
        fell_back = kernels is not None and all("eager" in one for one in kernels.values())
        row = {
            "problem": json.dumps(of["problem"]), "K": next((k for k in steps if k is not None), -1),
            "method": json.dumps([method, settings, fell_back], sort_keys=True), "dtype": of["dtype"],
            "maml": method["name"].split("-")[0] == "maml",
        }  # fmt: skip
        cells.append(row | {"seconds": np.nan})
        if record["status"] != "ok":
            continue
        time = record.get("time") or {}
        if time.get("samples_s"):
            cells[-1] |= {"seconds": np.median(time["samples_s"])}
            cells[-1] |= {"ratio": np.median(np.divide(time["samples_s"], time["reference_s"]))}
        cells[-1] |= {"bytes": (record.get("tensor_bytes") or {}).get("peak")}
        names = ("inner_grads", "inner_hvps", "outer_grads")
        cells[-1] |= {"calls": sum(record["calls"].get(k, 0) for k in names) if record.get("calls") else None}
        references = (record.get("accuracy") or {}).get("references", {})
        for name, one in references.items():
            tasks += [row | {"reference": name, "error": e} for e in one.get("relative_error", [])]
    keys = ["problem", "K", "method", "dtype", "maml"]
    frame = pd.DataFrame(cells).groupby(keys, sort=False).median(numeric_only=True)
    if tasks:
        errors = pd.DataFrame(tasks).astype({"error": float}).dropna(subset=["error"])
        frame = frame.join(errors.groupby([*keys, "reference"])["error"].median().unstack("reference"))
    return frame.reindex(columns=["seconds", "ratio", "bytes", "calls", "maml", "implicit"]).reset_index(
        names=["problem", "K", "method", "dtype", "exact"]
    )


def ends(study: str) -> list[tuple[int, pd.DataFrame]]:
    """The methods of each problem at its smallest and its largest number of inner steps."""
    found = []
    for _, here in methods(study).groupby("problem", sort=False):
        known = here.loc[here["K"] >= 0, "K"]
        found += [(k, here[here["K"].isin([k, -1])]) for k in dict.fromkeys([known.min(), known.max()])]
    return found


def at(setting: str) -> int:
    found = re.fullmatch(r"(\d+) inner steps?", setting)
    return int(found[1]) if found else -1


def number(text: str, after: str = "") -> float:
    """The first number behind ``after``, in its unit."""
    found = re.search(re.escape(after) + NUMBER, text)
    assert found, (after, text)
    return float(found[1].rstrip(".,").replace(",", "")) * UNITS[found[2] or ""]


def same(found: float, wanted: float, digits: int) -> bool:
    """Whether ``found`` is ``wanted`` written with so many digits, of bytes in a binary unit."""
    unit = next((u for u in (2**30, 2**20, 2**10) if wanted >= u), 1.0)
    step = unit * 10.0 ** (math.floor(math.log10(abs(wanted) / unit)) - digits + 1) if wanted else 0.0
    return abs(found - wanted) <= 0.50001 * step + 1e-300


def agree(found: list[tuple[int, float]], wanted: list[tuple[int, float]], digits: int) -> None:
    """The same numbers of steps, each with the same numbers, in any order."""
    assert len(found) == len(wanted)
    for (k, x), (wanted_k, y) in zip(sorted(found), sorted(wanted), strict=True):
        assert (k, True) == (wanted_k, same(x, y, digits)), (k, x, y)


def items(study: str, term: str) -> list[tuple[int, str]]:
    return [
        (at(v.setting), item.text) for v in said(study) for item in v.items if re.fullmatch(term, item.term)
    ]


def split(here: pd.DataFrame, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Methods that are exact up to rounding, and approximations, of those with an error to a reference."""
    known = here[here[name].notna()]
    promised = known["exact"] & (name == "maml")
    exact = promised & (known[name] <= known["dtype"].map(EPS).astype(float))
    near = ~promised & (known[name] <= 2 * known.loc[exact, name].max()) if exact.any() else exact
    return known[exact | near], known[~promised & ~near]


MEASURED = ("accuracy_vs_steps", "estimators", "libraries", "peers")


@pytest.mark.parametrize("study", MEASURED)
@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("maml", "Closest (approximation )?to exact MAML"),
        ("implicit", "Closest (approximation )?to the exact implicit gradient"),
    ],
)
def test_the_closest_method_has_the_smallest_median_error(study: str, name: str, term: str) -> None:
    present(study)
    wanted = [
        (k, approximate[name].min()) for k, here in ends(study) if len(approximate := split(here, name)[1])
    ]
    found = [(k, number(text, "relative error ")) for k, text in items(study, term)]
    assert wanted
    agree(found, wanted, 2)


@pytest.mark.parametrize("study", MEASURED)
def test_exact_methods_are_exact_to_the_largest_of_their_medians(study: str) -> None:
    present(study)
    wanted = [(k, e["maml"].max()) for k, here in ends(study) if len(e := split(here, "maml")[0])]
    found = [(k, number(text, "error at most ")) for k, text in items(study, "Exact up to rounding")]
    assert wanted
    agree(found, wanted, 2)


@pytest.mark.parametrize("study", MEASURED)
def test_the_cheapest_within_ten_percent(study: str) -> None:
    """By the ratio to first-order MAML or, where several settings meet, by seconds; else by oracle calls."""
    present(study)
    wanted = [(k, here[here["maml"] <= 0.1]) for k, here in ends(study) if here["maml"].notna().any()]
    for k, text in items(study, r"Cheapest within 10% error"):
        this = next(i for i, (other, close) in enumerate(wanted) if k == other and cheapest(text, close))
        del wanted[this]
    assert wanted == []


def cheapest(text: str, close: pd.DataFrame) -> bool:
    """Whether the method that ``text`` names has the cost of the cheapest of those that are close enough."""
    cost = number(text, " at ")
    if close["seconds"].notna().any():
        return any(same(cost, close.sort_values(by)["seconds"].iloc[0], 3) for by in ("ratio", "seconds"))
    return cost == close["calls"].min()


@pytest.mark.parametrize("study", ["cost_vs_steps", "scaling"])
@pytest.mark.parametrize(
    ("term", "column", "words", "digits"),
    [
        ("Fastest", "seconds", "slowest", 3),
        ("Least memory", "bytes", "most", 3),
        ("Fewest oracle calls", "calls", "most", 9),
    ],
)
def test_costs_lie_between_their_ends(study: str, term: str, column: str, words: str, digits: int) -> None:
    present(study)
    values = [(k, here[column].dropna()) for k, here in ends(study)]
    texts = items(study, term)
    agree([(k, number(t, "with ")) for k, t in texts], [(k, v.min()) for k, v in values], digits)
    largest = [(k, number(t.partition(f"; {words}: ")[2], " with ")) for k, t in texts]
    agree(largest, [(k, v.max()) for k, v in values], digits)


@pytest.mark.parametrize("study", ["cost_vs_steps", "estimators", "libraries", "peers", "scaling"])
def test_the_growth_of_memory_is_the_ratio_of_two_medians(study: str) -> None:
    present(study)
    wanted = []
    for _, here in methods(study).groupby("problem", sort=False):
        steps = sorted(k for k in here["K"].unique() if k >= 0)
        peaks = here[here["K"].isin([steps[0], steps[-1]])].pivot_table(
            index="method", columns="K", values="bytes", dropna=False
        )
        if len(steps) > 1 and len(peaks):
            wanted += [(0, value) for value in (peaks[steps[-1]] / peaks[steps[0]]).dropna()]
    texts = [text for _, text in items(study, "Factor by which peak tensor bytes grow")]
    found = [(0, number(part, ": ")) for text in texts for part in text.rstrip(".").split("; ")]
    agree(found, wanted, 3)


def wilson(k: int, n: int) -> tuple[float, float]:
    found = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high


def test_assumptions_are_violated_by_that_share_of_tasks() -> None:
    present("assumptions")
    rows = pd.DataFrame(
        {
            "id": r["id"], "data": r["cell"]["problem"]["name"].replace("_", " "), "task": t, "name": name,
            "network": r["cell"]["problem"].get("network", LINEAR).get("activation", "convolutional"),
            "stage": (r["cell"].get("start") or {}).get("stage", "start"), "bad": any(p for p in points if p),
        }
        for r in records("assumptions") if r.get("assumptions")
        for name, tasks in r["assumptions"]["violated"].items() for t, points in enumerate(tasks)
        if any(p is not None for p in points)
    )  # fmt: skip
    other = rows["name"].isin(["strongly_convex", "stationary", "invertible", "curvature"])
    (first, *others) = said("assumptions")
    text = first.items[0].text
    for some, part in ((rows[~other], text), (rows, text.partition("), ")[2])):
        whole = some.groupby(["id", "task"])["bad"].any()
        assert same(number(part), 100 * whole.mean(), 3)
        assert number(part, "of ") == len(whole)
        low, high = wilson(int(whole.sum()), len(whole))
        assert f"[{low:.3g}, {high:.3g}]" in part or whole.all()
    for verdict in others:
        text = next(item.text for item in verdict.items if item.term == "G strongly convex")
        mine = rows[(rows["data"] == verdict.problem) & (rows["name"] == "strongly_convex")]
        for network in {"linear", "relu", "tanh", "softplus"} & set(mine["network"]):
            bad = mine.loc[(mine["network"] == network) & (mine["stage"] == "start"), "bad"]
            part = next(p for p in text.split("; ") if p.startswith(f"{network}: "))
            assert same(number(part, ": "), 100 * bad.mean(), 3), part
            assert number(part, "] of ") == len(bad)


def test_outer_optimizers_reach_these_means_over_seeds() -> None:
    present("outer_optimizers")
    tests = []
    for r in records("outer_optimizers"):
        if r["status"] == "ok":
            (test,) = (e for e in r["train"]["evaluations"] if e["split"] == "test")
            kind = "accuracy" if test["accuracy"] else "loss"
            tests.append({
                "of": json.dumps([r["cell"]["problem"], r["cell"]["method"]]), "seed": r["cell"]["seed"],
                "outer": json.dumps(r["cell"]["outer"]), "kind": kind, "mean": test[kind]["mean"],
            })  # fmt: skip
    best, gaps, certain = [], [], 0
    for _, here in pd.DataFrame(tests).groupby("of"):
        values = here.pivot_table(index="seed", columns="outer", values="mean")
        classifies = here["kind"].iloc[0] == "accuracy"
        first = values.mean().idxmax() if classifies else values.mean().idxmin()
        best.append((classifies, (100 if classifies else 1) * values[first].mean()))
        n = values[first].notna().sum()
        half = scipy.stats.t.ppf(0.975, n - 1) * values[first].std() / n**0.5
        best[-1] = (*best[-1], (100 if classifies else 1) * (values[first].mean() - half))
        last = values.mean().idxmin() if classifies else values.mean().idxmax()
        certain += scipy.stats.ttest_rel(values[first], values[last], nan_policy="omit").pvalue < 0.05
        for other in [o for o in values.columns if o != first]:
            gap = (values[first] - values[other]).dropna().mean()
            gaps.append((classifies, abs(100 * gap if classifies else gap)))
    (answer,) = (t for _, t in items("outer_optimizers", "In a sentence"))
    assert f" in {certain} of {len(best)} pairs" in answer
    texts = [t for _, t in items("outer_optimizers", "Best outer optimizer")]
    found = [
        ("accuracy" in t, number(t, "accuracy " if "accuracy" in t else "loss "), number(t, "["))
        for t in texts
    ]
    assert len(found) == len(best)
    as_written = sorted(best, key=lambda b: (b[0], round(b[1], 1) if b[0] else b[1], b[2]))
    for one, (classifies, mean, low) in zip(sorted(found), as_written, strict=True):
        assert one[0] == classifies
        assert one[1] == pytest.approx(mean, abs=0.051) if classifies else same(one[1], mean, 3)
        assert one[2] == pytest.approx(low, abs=0.051) if classifies else same(one[2], low, 3)
    texts = [t for _, t in items("outer_optimizers", "Against .*")]
    said_gaps = sorted(("points" in t, number(t, " by ")) for t in texts if " by " in t)
    assert len(said_gaps) == len(gaps)
    for (points, one), (classifies, gap) in zip(said_gaps, sorted(gaps), strict=True):
        assert points == classifies
        assert one == pytest.approx(gap, abs=0.051) if points else same(one, gap, 3)


def test_every_reference_study_is_recomputed_somewhere() -> None:
    there = {path.parent.name for path in REFERENCE.glob("*/*.toml")}
    assert there <= {*HERE, *(study for some in ELSEWHERE.values() for study in some)}
    for module, studies in ELSEWHERE.items():
        if there.intersection(studies):
            assert (Path(__file__).parent / f"{module}.py").is_file(), module
