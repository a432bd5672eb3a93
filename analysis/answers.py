"""The answer in one sentence for studies that compare many methods; `verdict` goes through it in full.

Numbers are medians with their intervals in brackets, as everywhere.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from analysis import peers, scaling, stats, style, table, units
from analysis.metrics import CALLS, ERRORS, SECONDS, TENSOR_BYTES, Metric
from analysis.verdict import ROUNDING

_NOTHING = "No cell ended well."


def accuracy(frame: pd.DataFrame) -> str:
    """On every problem, at the fewest and the most inner steps: the approximation closest to exact MAML."""
    found = table.with_axes(frame)
    metric, parts = ERRORS["maml"], []
    for problem, here in found.groupby("problem", sort=False):
        first = here[here["method.name"] == "fomaml"]["method"]
        some = here[(here["method.name"].str.partition("-")[0] != "maml") & here[table.STEPS].notna()]
        points = stats.summarise(some, ["method", table.STEPS], metric)
        steps = sorted(points[table.STEPS].unique()) if len(points) else []
        at = []
        for k in dict.fromkeys([steps[0], steps[-1]]) if steps else []:
            ranked = points[points[table.STEPS] == k].sort_values("median", kind="stable")
            best = ranked.iloc[0]
            text = f"after {units.many(int(k), 'inner step')} {best['method']} with {_said(metric, best)}"
            plain = ranked[ranked["method"].isin(first)]
            if len(plain) and plain.iloc[0]["method"] != best["method"]:
                text += f" (FOMAML: {_said(metric, plain.iloc[0])})"
            at.append(text)
        if at:
            parts.append(f"on {problem}, {', '.join(at)}")
    if not parts:
        return _NOTHING
    least = "The approximation with the least relative error to exact MAML is"
    return f"{least}, {'; '.join(parts)} ({_size(found)})."


def cost(frame: pd.DataFrame) -> str:
    """By which factors time, memory and calls grow with inner steps, and of which methods."""
    found, parts = table.with_axes(frame), []
    for problem, here in found.groupby("problem", sort=False):
        grown = []
        steps: set[int] = set()
        for metric, word in ((SECONDS, "time"), (TENSOR_BYTES, "peak tensor bytes"), (CALLS, "oracle calls")):
            points = stats.summarise(here[here[table.STEPS].notna()], ["method", table.STEPS], metric)
            by = points.pivot_table(index="method", columns=table.STEPS, values="median")
            if by.shape[1] > 1:
                steps |= {int(by.columns[0]), int(by.columns[-1])}
                factors = (by.iloc[:, -1] / by.iloc[:, 0]).dropna()
                if len(factors):
                    grown.append(f"in {word} by a factor of {_ends(factors, units.ratio)}")
        if grown:
            ends = f"from {min(steps)} to {max(steps)} inner steps"
            parts.append(f"on {problem}, {ends}, {', '.join(grown)}")
    if not parts:
        return _NOTHING
    return f"The cost of a meta-gradient grows {'; '.join(parts)} (medians, {_size(found)})."


def agreement(frame: pd.DataFrame) -> str:
    """Which libraries give exact MAML up to rounding; which come as close to it as our implicit gradient."""
    found = peers.rows(frame)
    found = found[found["status"] == "ok"]
    if found.empty:
        return _NOTHING
    metric, family = ERRORS["maml"], found["method.name"].str.partition("-")[0]
    exact = found[(family == "maml") & ~found["library"].str.startswith(peers.OURS)]
    points = stats.summarise(exact, ["library", "problem", "dtype"], metric)
    wrong = points[points["median"] > points["dtype"].astype(str).map(ROUNDING)]
    right = points[~points["library"].isin(wrong["library"])]
    parts = []
    if len(right):
        parts.append(
            f"of exact MAML {_listed(right['library'])} give the same up to rounding (relative error at most "
            f"{metric.format(right['median'].max())})"
        )
    for row in wrong.to_dict("records"):
        parts.append(f"{row['library']} errs by {_said(metric, row)} on {row['problem']}")
    near, far = _implicit(found[family == "imaml"], metric)
    if near:
        parts.append(f"of implicit gradients {_listed(near)} come as close to it as metabench's own")
    if far:
        parts.append(f"farther away than that: {', '.join(far)}")
    there = units.many(found["problem"].nunique(), "problem")
    return f"On {there}, {'; '.join(parts)} ({_size(found)})." if parts else _NOTHING


def speed(frame: pd.DataFrame) -> str:
    """Every library's time as a multiple of jitted JAX's, from its best row to its worst."""
    points, metric = times_jax(frame), peers.TO_JAX
    if points.empty:
        return "Nothing was timed next to JAX."
    parts = []
    for library in peers.libraries(points[points["library"] != peers.BASELINE]):
        mine = points[points["library"] == library].sort_values("median", kind="stable")
        ends = [mine.iloc[0]] if len(mine) == 1 else [mine.iloc[0], mine.iloc[-1]]
        said = [f"{_said(metric, end)} ({_short(end['problem'])}, {end['row']})" for end in ends]
        parts.append(f"{library} {' to '.join(said)}")
    return f"Of jitted JAX's time for the same meta-gradient, take: {'; '.join(parts)}."


def times_jax(frame: pd.DataFrame) -> pd.DataFrame:
    """What `speed` says, a row for each problem, computation and library."""
    return stats.summarise(peers.rows(frame), ["problem", "row", "library"], peers.TO_JAX)


def growth(frame: pd.DataFrame) -> str:
    """The least and the largest exponent of time and of memory along each axis."""
    parts = []
    for word, of_cost in exponents(frame).groupby("cost", sort=False):
        grown = []
        for axis, mine in of_cost.groupby("axis", sort=False):
            slopes = mine.set_index("method")["exponent"]
            grown.append(f"{_ends(slopes.round(2) + 0.0, '{:.2f}'.format)} of {axis}")
        parts.append(f"{word} grows as the power {', '.join(grown)}")
    return f"At the large end of each axis {'; '.join(parts)}." if parts else _NOTHING


def exponents(frame: pd.DataFrame) -> pd.DataFrame:
    """What `growth` says: cost, axis, method, exponent, and the number of points it is fitted to."""
    rows = [
        (word, axis.title, line, fit.slope, fit.points)
        for metric, word in zip(scaling.COSTS, ("time", "resident memory"), strict=True)
        for axis, fits in scaling.exponents(frame, metric).items()
        for line, fit in fits.items()
    ]
    return pd.DataFrame(rows, columns=["cost", "axis", "method", "exponent", "points"]).dropna()


def _implicit(found: pd.DataFrame, metric: Metric) -> tuple[list[str], list[str]]:
    """Libraries whose implicit gradient is nowhere farther from MAML than ours in the same row; others."""
    ours = found[found["library"].str.startswith(peers.OURS)]
    key = ["problem", "row", "seed", "task"]
    own = ours.groupby(key, sort=False)[metric.column].median()
    far: dict[str, list[tuple[float, str]]] = {}
    for (name, problem, _), mine in found.groupby(["library", "problem", "row"], sort=False):
        library = str(name)
        paired = mine.groupby(key, sort=False)[metric.column].median()
        base = own.reindex(paired.index)
        difference = (paired - base).dropna()
        if library.startswith(peers.OURS) or difference.empty:
            continue
        seeds = difference.index.get_level_values("seed").to_numpy()
        worse = stats.hierarchical(difference.to_numpy(), seeds).low > ROUNDING[str(mine["dtype"].iloc[0])]
        there = far.setdefault(library, [])
        if worse:
            theirs, known = (
                stats.hierarchical(values.to_numpy(), seeds)
                for values in (paired[difference.index], base[difference.index])
            )
            text = (
                f"{_said(metric, theirs._asdict())} on {_short(problem)}, where metabench has "
                f"{_said(metric, known._asdict())}"
            )
            there.append((theirs.median, text))
    near = [library for library, there in far.items() if not there]
    return near, [f"{library} ({max(there)[1]})" for library, there in far.items() if there]


def _ends(values: pd.Series, text: Callable[[float], str]) -> str:
    """Text such as "1.00 (iMAML, CG 1) to 20.3 (MAML, unrolled)": the first in order where several tie."""
    ranked = sorted(style.ordered(map(str, values.index)), key=values.__getitem__)
    ends = dict.fromkeys([ranked[0], max(ranked, key=values.__getitem__)])
    return " to ".join(f"{text(values[name])} ({name})" for name in ends)


def _said(metric: Metric, row: Any) -> str:
    return metric.describe(row["median"], row["low"], row["high"])


def _short(problem: object) -> str:
    return str(problem).partition(",")[0]


def _listed(names: Iterable[str]) -> str:
    some = list(dict.fromkeys(names))
    return some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}"


def _size(frame: pd.DataFrame) -> str:
    ok = frame[frame["status"] == "ok"]
    tasks = int(ok.groupby("id")["n_tasks"].first().max()) if len(ok) else 0
    return f"{units.many(tasks, 'task')} a cell, {units.many(ok['seed'].nunique(), 'seed')}"
