"""Is it numerical? The answers of the studies precision, data_scale, unrolling and mixed, from their frames.

Numbers are medians over tasks with the intervals of `stats`; "of n tasks in s seeds" is what they are of.
"""

import re
from collections.abc import Iterable, Iterator

import pandas as pd

from analysis import rounding, stats, style, table
from analysis.labels import pretty
from analysis.metrics import ERRORS, Metric
from analysis.verdict import EVERYWHERE, Item, Verdict

RATE, SCALE, LATE = "method.inner.learning_rate", "problem.input_scale", "method.unroll_from"
HALF = 0.5
FALLEN = 2.0  # times the smallest error: there it falls no more
NOISE = 1e-9  # an error up to which a rise is one of rounding
MATTERS = 0.8  # of the error is left at most where a part in float64 matters
FULL = "float64"
PARTS = ("inner", "solve", "products", "dots")
_LEFT = Metric("left", "left", "left", "ratio", True)


def precision(frame: pd.DataFrame) -> list[Verdict]:
    """From which step on MAML's gap is rounding, its split at every step, and where errors stop falling."""
    answers, found = [], []
    for problem, here in _by(frame, "problem"):
        maml = here[here["method.name"] == "maml"]
        answers.append(f"on {problem} {_mostly_rounding(maml)} ({_size(maml)}{_unproven(maml)})")
        items = [Item(*parts) for parts in rounding.sentences(table.with_axes(maml))]
        falls = [
            Item("Its error to the implicit gradient falls no more", method, f": {_floors(mine)}.")
            for method, mine in _by(here, "method")
        ]
        found.append(Verdict(problem, "", items + falls))
    text = (
        "Over half of exact MAML's gap to the exact implicit gradient is rounding "
        f"{'; '.join(answers)}. All else is truncation, which infinite precision would leave."
    )
    return [Verdict(EVERYWHERE, "", [Item("Is MAML's gap numerical?", "", text)]), *found]


def data_scale(frame: pd.DataFrame) -> list[Verdict]:
    """What scales do to the rounding of exact MAML, to every method's error, and to the number of failures.

    ``frame`` has the scale in every row.
    """
    answers, found = [], []
    for name, here in _by(frame, "problem.name"):
        maml = here[here["method.name"] == "maml"]
        parts = [f"in {dtype} {_range(mine, ERRORS['maml'])}" for dtype, mine in table.by_dtypes(maml)]
        answers.append(f"on {pretty(name)} {'; '.join(parts)} ({_size(maml)} a scale)")
        rows = [
            Item("Error to the implicit gradient by scale, float64", method, f": {_at_scales(mine)}.")
            for method, mine in _by(here[here["dtype"] == FULL], "method")
        ]
        found.append(Verdict(pretty(name), "", rows))
    text = (
        "Rounding alone, which is the error of exact MAML to itself in float64, goes over all scales of the "
        f"inputs {'. And '.join(answers)}."
    )
    items = [Item("Do scaled data explain MAML's errors?", "", text)]
    items.append(Item("Cells without a result", "", _failures(frame)))
    return [Verdict(EVERYWHERE, "", items), *found]


def unrolling(frame: pd.DataFrame) -> list[Verdict]:
    """Whether the unrolled derivative moves away from the implicit one, at which inner steps, and why."""
    answers, found = [], []
    for problem, here in _by(frame, "problem"):
        whole = here[here["method.name"] == "maml"]
        away, near, items = [], [], []
        for rate, mine in _by(whole, RATE):
            if moved := _away(mine[mine["dtype"] == FULL]):
                away.append(f"at inner step {rate:.3g}, {moved}")
                text = f": {_next_to_full(mine)}"
                items.append(Item("Is that rounding?", f"inner step {rate:.3g}", text))
            else:
                near.append(f"{rate:.3g}")
        said = "; ".join(away) or "at no inner step"
        rest = f"; never at {', '.join(near)}" if near and away else ""
        answers.append(f"on {problem} {said}{rest} ({_size(whole)})")
        late = here[here["method.name"] == "truncated-maml"]
        items += [
            Item("Unrolled from a later step on", f"inner step {rate:.3g}", f": {_late(mine)}.")
            for rate, mine in _by(late, RATE)
        ]
        found.append(Verdict(problem, "", items))
    text = (
        "The unrolled derivative moves away from the implicit one, that is, its error in float64 is larger "
        f"than after fewer steps, {'. And '.join(answers)}."
    )
    return [Verdict(EVERYWHERE, "", [Item("Does it first move away?", "", text)]), *found]


def mixed(frame: pd.DataFrame) -> list[Verdict]:
    """What is left of the error, task by task, when parts of a method are in float64."""
    needs: dict[str, dict[str, list[str]]] = {}
    items: dict[str, list[Item]] = {problem: [] for problem, _ in _by(frame, "problem")}
    for problem, name, dtype, changes in _changed(frame):
        alone = [part for part, left in changes.items() if "," not in part and left.high <= MATTERS]
        where = needs.setdefault(" and ".join(alone) or "no part by itself", {})
        where.setdefault(f"{name} on {problem}", []).append(dtype)
        left = "; ".join(f"{part} {_LEFT.describe(*change[:3])}" for part, change in changes.items())
        text = f": with parts in float64 the error is so many times what it was: {left}."
        items[problem].append(Item("What is left of the error", f"{name}, {dtype}", text))
    found = [Verdict(problem, "", some) for problem, some in items.items()]
    answers = []
    for part, where in needs.items():
        listed = "; ".join(f"{name} in {', '.join(dtypes)}" for name, dtypes in where.items())
        answers.append(f"{part} of {listed}")
    text = (
        f"These parts, alone in float64, lower the error to at most {MATTERS:.0%} (upper end of the "
        f"interval, {_size(frame)}): {'. And '.join(answers)}."
    )
    return [Verdict(EVERYWHERE, "", [Item("Which part needs the precision?", "", text)]), *found]


def left_of_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """What `mixed` says, a row for each problem, method, dtype and choice of parts in float64."""
    return pd.DataFrame(
        {"problem": problem, "method": name, "dtype": dtype, "in float64": parts} | left._asdict()
        for problem, name, dtype, changes in _changed(frame)
        for parts, left in changes.items()
    )


def _changed(frame: pd.DataFrame) -> Iterator[tuple[str, str, str, dict[str, stats.Interval]]]:
    """Problem, method, dtype, and `_changes` where there are any."""
    for problem, here in _by(frame, "problem"):
        for name, mine in _by(here.assign(of=here["method"].map(_base)), "of"):
            for dtype, few in table.by_dtypes(mine):
                if changes := _changes(few, name):
                    yield problem, name, dtype, changes


def _by(frame: pd.DataFrame, column: str) -> Iterable[tuple]:
    """The values of a column and their rows: methods in the order of legends, numbers in their own."""
    values = frame[column].dropna().unique().tolist()
    ordered = style.ordered(values) if column in ("method", "of") else values
    ordered = sorted(values) if all(isinstance(v, float) for v in values) else ordered
    return [(value, frame[frame[column] == value]) for value in ordered]


def _size(frame: pd.DataFrame) -> str:
    """How many tasks a median is of, at most; seeds."""
    ok = frame[frame["status"] == "ok"]
    n = int(ok.groupby("id").size().max()) * ok["seed"].nunique() if len(ok) else 0
    return f"{n} tasks in {ok['seed'].nunique()} seeds"


def _points(frame: pd.DataFrame, by: str, metric: Metric) -> dict[float, stats.Interval]:
    """The measure's median and interval at every value of the column ``by``, from the smallest on."""
    points = stats.summarise(frame[frame[by].notna()], [by], metric).sort_values(by)
    rows = points[list(stats.Interval._fields)].to_numpy(dtype=float)
    return {float(at): stats.Interval(*row) for at, row in zip(points[by], rows, strict=True)}


def _error(of: stats.Interval) -> str:
    return ERRORS["implicit"].describe(of.median, of.low, of.high)


def _worst(points: dict[float, stats.Interval]) -> float:
    return max(points, key=lambda at: points[at].median)


def _steps(count: float) -> str:
    return f"{count:g} step{'' if count == 1 else 's'}"


def _mostly_rounding(frame: pd.DataFrame) -> str:
    """Text such as "from 10 steps on in bfloat16 (67 % [64, 83] there), in float64 at no number of steps"."""
    parts = []
    for dtype, mine in table.by_dtypes(frame):
        points = rounding.over_steps(mine, "implicit")
        over = points[points["median"] > HALF]
        if points.empty:
            parts.append(f"in {dtype} (not certified)")
        elif over.empty:
            parts.append(f"at none of up to {points.index[-1]} steps in {dtype}")
        else:
            share = rounding.percent(*over.iloc[0])
            parts.append(f"from {_steps(over.index[0])} on in {dtype} ({share} there)")
    return ", ".join(parts)


def _unproven(frame: pd.DataFrame) -> str:
    """A remark where the implicit reference is float64's, so that its own error is in the truncation."""
    proven = frame.get("certified.proven.implicit", pd.Series(dtype=float)).dropna()
    return "" if (proven == 1).all() else "; the reference is float64's, its own error counts as truncation"


def _floors(frame: pd.DataFrame) -> str:
    """For every dtype the fewest steps whose error is at most `FALLEN` times the smallest."""
    parts = []
    for dtype, mine in table.by_dtypes(frame):
        points = _points(mine, table.STEPS, ERRORS["implicit"])
        if points:
            floor = FALLEN * min(point.median for point in points.values())
            first = next(at for at, point in points.items() if point.median <= floor)
            last = " (the most there are)" if first == max(points) else ""
            parts.append(f"{dtype} from {_steps(first)} on{last}, at {_error(points[first])}")
    return "; ".join(parts) or "not known"


def _range(frame: pd.DataFrame, metric: Metric) -> str:
    """Text such as "from 8.1e-8 [..] (at 0.1) to 2.1e-7 [..] (at 10)"."""
    points = _points(frame, SCALE, metric)
    if not points:
        return "nowhere known"
    best, worst = min(points, key=lambda at: points[at].median), _worst(points)
    return f"from {_error(points[best])} (at {best:g}) to {_error(points[worst])} (at {worst:g})"


def _at_scales(frame: pd.DataFrame) -> str:
    points = _points(frame, SCALE, ERRORS["implicit"])
    return "; ".join(f"{_error(point)} at {scale:g}" for scale, point in points.items()) or "not known"


def _failures(frame: pd.DataFrame) -> str:
    """By dtype: how many cells failed, of how many, and at which scales."""
    one, parts = table.cells(frame), []
    for dtype, mine in table.by_dtypes(one):
        bad = mine[mine["status"] != "ok"]
        scales = ", ".join(f"{scale:g}" for scale in sorted(bad[SCALE].unique()))
        parts.append(f"{dtype} {len(bad)} of {len(mine)}{f' (at {scales})' if len(bad) else ''}")
    return "; ".join(parts) + "."


def _away(frame: pd.DataFrame) -> str:
    """From which error to which it rises beyond all intervals before; "" where it never does."""
    points = _points(frame, table.STEPS, ERRORS["implicit"])
    before, rises = float("inf"), False
    for point in points.values():
        low, high = (point.median if pd.isna(end) else end for end in (point.low, point.high))
        rises |= low > max(before, NOISE)
        before = min(before, high)
    if not rises:
        return ""
    first, worst = min(points), _worst(points)
    return f"from {_error(points[first])} at K = {first:g} to {_error(points[worst])} at K = {worst:g}"


def _next_to_full(frame: pd.DataFrame) -> str:
    """At the step with float64's largest error: each dtype's error to float64's, and its certified share."""
    metric = ERRORS["implicit"]
    full = _points(frame[frame["dtype"] == FULL], table.STEPS, metric)
    worst, parts = _worst(full), []
    for dtype, mine in table.by_dtypes(frame[frame["dtype"] != FULL]):
        points = _points(mine, table.STEPS, metric)
        if worst in points:
            shares = rounding.over_steps(mine, "implicit")
            shares = shares[shares.index == worst]
            proven = (
                f" ({rounding.percent(*shares.iloc[0])} of it rounding, as is proven)" if len(shares) else ""
            )
            parts.append(
                f"in {dtype} {points[worst].median / full[worst].median:.3g} times float64's{proven}"
            )
    return f"at K = {worst:g}, where the error is largest, it is " + ", ".join(parts) + "."


def _late(frame: pd.DataFrame) -> str:
    """The largest error after the step from which on it is unrolled, in float64; 1 is that of no gradient."""
    parts = []
    for start, mine in _by(frame[frame["dtype"] == FULL].astype({LATE: float}), LATE):
        points = _points(mine[mine[table.STEPS] > start], table.STEPS, ERRORS["implicit"])
        if points:
            worst, last = _worst(points), max(points)
            ends = f"{_error(points[worst])} (K = {worst:g}), {_error(points[last])} at K = {last:g}"
            parts.append(f"from {start:g}: at most {ends}")
    return "; ".join(parts) or "not known"


def _base(label: str) -> str:
    """The label of the method with no part in a precision of its own."""
    return re.sub(r", (?:inner|solve|products|dots) float64|, inner gradients .*", "", label)


def _changes(frame: pd.DataFrame, name: str) -> dict[str, stats.Interval]:
    """Parts in float64 -> error over the error with none, task by task, as median and interval."""
    error = ERRORS["implicit"].column
    ok = frame[(frame["status"] == "ok") & frame[error].notna()].set_index(["seed", "task"])
    plain = ok.loc[ok["method"] == name, error]
    found = {}
    for label, mine in ok.groupby("method", sort=False):
        parts = [part for part in PARTS if f", {part} {FULL}" in str(label)]
        if parts and len(plain):
            change = (mine[error] / plain).dropna()
            seeds = change.index.get_level_values("seed").to_numpy()
            found[", ".join(parts)] = stats.hierarchical(change.to_numpy(), seeds)
    return dict(sorted(found.items(), key=lambda one: one[0].count(",")))
