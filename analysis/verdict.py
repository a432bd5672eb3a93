"""The answer of a study in words, computed from its records: closest, cheapest, exact, how memory grows.

Exact methods (MAML in all its forms) are named apart from approximations, and only if their error really is
rounding: at most the square root of the dtype's precision. Whether two approximations differ is decided on
the differences of their errors on the same tasks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from analysis import learning, reasons, rounding, stats, style, table, units
from analysis.metrics import CALLS, ERRORS, RATIO, SECONDS, TENSOR_BYTES, Metric
from bench.spec import TRAIN

ROUNDING = {"float64": 1.5e-8, "float32": 3.5e-4, "tf32": 0.032, "bfloat16": 0.09, "float16": 0.032}
EVERYWHERE = "all problems"
CLOSE = 0.1  # "within 10 % error"
Rows = dict[str, dict[Any, Any]]  # method -> row of the summary
REFERENCES = {"maml": "exact MAML", "implicit": "the exact implicit gradient"}


class Item(NamedTuple):
    """One part of an answer: the question, the methods that answer it (or ""), the rest of the sentence."""

    term: str
    methods: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """What one problem says at one setting ("10 inner steps")."""

    problem: str
    setting: str
    items: list[Item]


def verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """For every problem, at the smallest and the largest number of inner steps; and how memory grows.

    Of training cells for every method: which outer optimizer does best.
    """
    found, measured = [], table.with_axes(frame[frame["passes"] != TRAIN])
    for problem in dict.fromkeys(frame["problem"]):
        here = frame[frame["problem"] == problem]
        for method, sentences in learning.sentences(here):
            found.append(Verdict(problem, method, [Item(*parts) for parts in sentences]))
        here = measured[measured["problem"] == problem]
        if here.empty:
            continue
        steps = sorted(int(k) for k in here[table.STEPS].dropna().unique())
        for k in dict.fromkeys([steps[0], steps[-1]]) if steps else [None]:
            rows = here if k is None else here[here[table.STEPS].isna() | (here[table.STEPS] == k)]
            setting = "" if k is None else f"{k} inner step{'' if k == 1 else 's'}"
            found.append(Verdict(problem, setting, _items(rows)))
        if len(steps) > 1 and (grown := _growth(here, steps[0], steps[-1])):
            found.append(Verdict(problem, f"from {steps[0]} to {steps[-1]} inner steps", [grown]))
        if split := [Item(*parts) for parts in rounding.sentences(here)]:
            found.append(Verdict(problem, "rounding and truncation", split))
    return found


def _items(frame: pd.DataFrame) -> list[Item]:
    names = dict(zip(frame["method"], frame["method.name"], strict=True))
    rows = {
        method: row | {"exact": str(names[method]).split("-")[0] == "maml"}
        for row in table.summary(frame).to_dict("records")
        if row["cells"] > row["failed"] and (method := str(row["method"]))
    }
    if not rows:
        return [Item("No verdict", "", f"No cell ended well: {_statuses(frame)}.")]
    items = []
    known = [name for name, metric in ERRORS.items() if _with(rows, metric)]
    for name in known:
        items += _accuracy(frame, rows, name)
    if "maml" not in known and frame["task"].notna().any():
        known_reasons = reasons.kinds(frame["missing.maml"].dropna())
        why = known_reasons[0].example if known_reasons else "no error was recorded"
        items.append(Item("Distance to exact MAML", "", f"Not known: {why}."))
    return items if known else items + _costs(rows)


def _accuracy(frame: pd.DataFrame, rows: Rows, name: str) -> list[Item]:
    metric, reference = ERRORS[name], REFERENCES[name]
    rows = _with(rows, metric)
    errors = {method: row[metric.column] for method, row in rows.items()}
    dtypes = frame.groupby("method")["dtype"].first()  # labels tell dtypes apart where several meet
    bound = {m: ROUNDING.get(str(dtypes[m]), ROUNDING["float32"]) for m in rows}
    promised = [m for m in rows if name == "maml" and rows[m]["exact"]]
    exact = [m for m in promised if errors[m] <= bound[m]]
    # Where an approximation is as close as exact methods, as truncation is over all steps, it is exact too.
    near = 2 * max((errors[m] for m in exact), default=-1.0)
    exact += [m for m in rows if m not in promised and errors[m] <= near]
    items = []
    if approximate := [m for m in rows if m not in promised and m not in exact]:
        best = min(approximate, key=errors.__getitem__)
        text = f" with relative error {_described(rows[best], metric)}{_at(rows[best])}."
        if ties := _ties(frame, metric, best, approximate, 10 * bound[best] ** 2):
            text += f" Not told apart from it: {'; '.join(ties)}."
    else:
        best, text = "", "No approximate method has an error."
    items.append(Item(f"Closest {'approximation ' if exact else ''}to {reference}", best, text))
    if name == "maml":
        close = _cheapest(_only(rows, [m for m in rows if errors[m] <= CLOSE]))
        items.append(Item(f"Cheapest within {CLOSE:.0%} error", *close))
    if exact:
        text = f": median relative error at most {metric.format(max(errors[m] for m in exact))}"
        one = len(exact) == 1
        text += f"{_at(rows[exact[0]])}." if one else f"; cheapest: {''.join(_cheapest(_only(rows, exact)))}"
        items.append(Item("Exact up to rounding", "; ".join(exact), text))
    for method in promised:
        if method not in exact:
            text = (
                f" should be exact, but its relative error {_described(rows[method], metric)} is more than "
            )
            items.append(
                Item("Not as promised", method, f"{text}rounding ({units.digits(bound[method])}) explains.")
            )
    return items


def _ties(frame: pd.DataFrame, metric: Metric, best: str, others: list[str], rounding: float) -> list[str]:
    """Methods whose error differs from the best one's by nothing certain or by rounding, task by task."""
    ok = frame[(frame["status"] == "ok") & frame["method"].isin(others)]
    errors = ok.pivot_table(index=["seed", "task"], columns="method", values=metric.column)
    tied = []
    for other in style.ordered(m for m in others if m != best and m in errors):
        difference = (errors[other] - errors[best]).dropna()
        seeds = difference.index.get_level_values("seed").to_numpy()
        interval = stats.hierarchical(difference.to_numpy(), seeds)
        if interval.n > 0 and (interval.median <= rounding or interval.low <= rounding):
            tied.append(other)
    return tied


def _cheapest(rows: Rows) -> tuple[str, str]:
    """The cheapest of ``rows`` by the first measure that all of them have, and what it costs.

    Ratios compare only where all are to the same first-order MAML: one dtype, device and number of threads.
    """
    if not rows:
        return "", "No method."
    one_baseline = all(len({row.get(axis) for row in rows.values()}) == 1 for axis in table.AXES)
    for metric in ([RATIO] if one_baseline else []) + [SECONDS, CALLS, TENSOR_BYTES]:
        if len(_with(rows, metric)) == len(rows):
            best = min(rows, key=lambda method: rows[method][metric.column])
            return best, f"{_at(rows[best])}.{_as_cheap(rows, best, metric)}"
    return "; ".join(rows), " (cost not measured)."


def _as_cheap(rows: Rows, best: str, metric: Metric) -> str:
    """Methods whose cost interval overlaps the cheapest one's, as a sentence; "" if there are none."""
    high = rows[best][f"{metric.column}.high"]
    others = [m for m in rows if m != best and rows[m][f"{metric.column}.low"] <= high]
    return f" Not told apart from it: {'; '.join(style.ordered(others))}." if others else ""


def _costs(rows: Rows) -> list[Item]:
    """The extremes of what was measured, where no error was."""
    items = []
    ends_of = (("Fastest", "slowest", SECONDS), ("Least memory", "most", TENSOR_BYTES))
    for term, opposite, metric in (*ends_of, ("Fewest oracle calls", "most", CALLS)):
        known = {method: row[metric.column] for method, row in _with(rows, metric).items()}
        if known:
            low, high = min(known.values()), max(known.values())
            best, worst = ([m for m in known if known[m] == end] for end in (low, high))
            text = f" with {_described(rows[best[0]], metric)}"
            if high > low:
                text += f"; {opposite}: {'; '.join(worst)} with {_described(rows[worst[0]], metric)}"
            items.append(Item(term, "; ".join(best), f"{text}."))
    return items or [Item("No verdict", "", "Neither an error nor a cost was measured.")]


def _growth(frame: pd.DataFrame, first: int, last: int) -> Item | None:
    """By which factor the peak of the tensor bytes grows with inner steps, per method."""
    points = stats.summarise(frame, ["method", table.STEPS], TENSOR_BYTES)
    points = points.pivot_table(index="method", columns=table.STEPS, values="median")
    if first not in points or last not in points:
        return None
    factors = (points[last] / points[first]).dropna()
    parts = [f"{m}: {units.digits(factors[m], 3)}" for m in style.ordered(factors.index)]
    return Item("Factor by which peak tensor bytes grow", "", "; ".join(parts) + ".") if parts else None


def _only(rows: Rows, methods: list[str]) -> Rows:
    return {method: rows[method] for method in methods}


def _with(rows: Rows, metric: Metric) -> Rows:
    return {method: row for method, row in rows.items() if pd.notna(row[metric.column])}


def _at(row: dict[Any, Any]) -> str:
    """Text such as " at 2.1 ms (3.2 times FOMAML) and 1.2 MiB", as far as it is known."""
    parts = []
    if pd.notna(row[SECONDS.column]):
        known = pd.notna(row[RATIO.column])
        ratio = f" ({units.digits(row[RATIO.column], 3)} times FOMAML)" if known else ""
        parts.append(units.seconds(row[SECONDS.column]) + ratio)
    if pd.notna(row[TENSOR_BYTES.column]):
        parts.append(units.nbytes(row[TENSOR_BYTES.column]))
    if not parts and pd.notna(row[CALLS.column]):
        parts.append(f"{units.count(row[CALLS.column])} gradients and Hessian products")
    return " at " + " and ".join(parts) if parts else ""


def _described(row: dict[Any, Any], metric: Metric) -> str:
    return metric.describe(*(row[metric.column + end] for end in ("", ".low", ".high")))


def _statuses(frame: pd.DataFrame) -> str:
    counts = table.cells(frame)["status"].value_counts().sort_index()
    return ", ".join(f"{n} {status}" for status, n in counts.items())
