"""MAML's meta-gradient across the edge of stability: its norm, its angle, what is not finite."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import grid, panels, scales, stability, style, table, units
from analysis.assumptions import Share
from analysis.metrics import COSINES, ERRORS
from analysis.stability import BANDS, EDGE, FOMAML, MAML, SIDES, UNSTABLE
from analysis.style import Style
from analysis.verdict import Item, Verdict

TABLE = (
    "Medians with 95% bootstrap intervals, and shares with 95% Wilson intervals, with the most inner steps. "
    "∞: not finite."
)
LOOKS = {
    "below 1": Style("#000000", "o", "-", filled=False),
    "1 to 2": Style("#0072B2", "s", (0, (6, 1.5))),
    "2": Style("#009E73", "D", (0, (4, 1.2, 1, 1.2)), filled=False),
    "2 to 3": Style("#E69F00", "v", (0, (2, 1))),
    "above 3": Style("#D55E00", "^", (0, (1, 1))),
}
ROWS = {stability.GROWTH: "norm to that\nwith {} step{}", stability.COSINE: "cosine to\nimplicit gradient",
        stability.FINITE: "tasks not finite"}  # fmt: skip
WHERE = {"below": "below the edge", "at": "at the edge", "above": "beyond the edge"}
NOTHING = "No meta-gradient of a task whose curvature was measured."


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "Rows: the norm of the meta-gradient relative to the same task's with the fewest inner steps, its "
        "cosine to the exact implicit gradient, the share of tasks whose meta-gradient is not finite. First "
        "figure: of exact MAML against the number of inner steps K, a curve for each range of the inner step "
        "times L, the largest curvature of G at theta. Second figure: of each method with the most inner "
        "steps, against the inner step times L; the dotted line at 2 is the edge of stability."
    )


def words(frame: pd.DataFrame) -> dict[str, str]:
    """The statistic: cells with a task that is not finite count here."""
    return {
        "Statistic": "Medians over tasks and inner step sizes with 95% bootstrap interval over seeds, then "
        "tasks; a meta-gradient that is not finite counts as an infinite norm, and has no cosine. Shares with "
        "95% Wilson intervals, which take the tasks of a seed for independent. Cells with a task that is not "
        "finite count.",
        "Axes": "Logarithmic but for the cosine and the share.",
    }


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer over all problems, then for each."""
    here = stability.measured(frame)
    if here.empty:
        return [("", [Verdict("all problems", "", [Item("No verdict", "", NOTHING)])])]
    found = [Verdict("all problems", "", _items(here))]
    if here["problem"].nunique() > 1:
        found += [Verdict(name, "", _items(here[here["problem"] == name])) for name in _problems(here)]
    return [("", found)]


def tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each problem and dtype: rows are methods and sides of the edge."""
    here = stability.measured(frame)
    made = []
    for name, mine in _columns(here):
        last = stability.longest(mine)
        looks = style.styles(last["method"])
        body = [
            {
                "method": method, "color": look.color, "axes": [WHERE[side]],
                "values": _values(group), "failed": "", "n": _n(group),
            }
            for method, look in looks.items() for side in SIDES
            if len(group := last[(last["method"] == method) & (last[stability.SIDE] == side)])
        ]  # fmt: skip
        heads = ["", f"norm to that with {_fewest(mine)}", "cosine to implicit gradient"]
        heads += ["error to exact MAML", "not finite", "n", ""]
        made.append({"problem": f"{name}, K = {_steps(last)}", "heads": heads, "rows": body})
    return made


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Against inner steps, then across the edge."""
    here = stability.measured(frame)
    if here.empty:
        figure, axes = panels.canvas(1, 1, [])
        axes[0, 0].set(xticks=[], yticks=[])
        missing = grid.remark(frame, ERRORS["implicit"])
        text = missing if "no cell" in missing else "no curvature measured"
        panels.note(axes[0, 0], text, empty=True)
        return [figure]
    exact = here[here["method.name"] == MAML].assign(curve=lambda f: f[stability.BAND])
    last = stability.longest(here).assign(curve=lambda f: f["method"])
    last[stability.TIMES_CURVATURE] = last.groupby(["problem", "dtype", "method.inner.learning_rate"])[
        stability.TIMES_CURVATURE
    ].transform("median")
    bands = {name: LOOKS[name] for name in BANDS if (exact["curve"] == name).any()}
    methods = style.styles(last["curve"])
    return [
        _figure(exact, table.STEPS, "inner steps K", bands, "exact MAML, by inner step times L"),
        _figure(last, stability.TIMES_CURVATURE, "inner step times L", methods, f"K = {_steps(last)}"),
    ]


def _items(here: pd.DataFrame) -> list[Item]:
    narrow = stability.first_dtype(here)
    last = stability.longest(narrow)
    items = [Item("Is MAML's meta-gradient unstable?", "", _unstable(last, _fewest(narrow)))]
    for side in SIDES:
        if parts := _each(last, side, stability.GROWTH, _median, 1):
            items.append(Item(f"Growth of the norm {WHERE[side]}", "", parts))
    items += _back(stability.longest(stability.widest(here)))
    for side in SIDES:
        if parts := _each(last, side, None, lambda g, _: str(stability.not_finite(g)), 1):
            items.append(Item(f"Not finite {WHERE[side]}", "", parts))
    if (saved := stability.overflows(here)) is not None and saved.n:
        text = f"{saved.k:,} of {saved.n:,} ({saved}): there only the range of float32 is left."
        items.append(Item("Of MAML's that are not finite in float32, finite in float64", "", text))
    for side in SIDES:
        if parts := _each(last, side, stability.COSINE, _cosine, 1):
            items.append(Item(f"Cosine to the implicit gradient {WHERE[side]}, where finite", "", parts))
    rounding = [
        f"{WHERE[side]} {_median(mine, stability.ERROR)}{_of(stability.median(mine, stability.ERROR))}"
        for side in SIDES
        if stability.median(mine := stability.of(last, MAML, side), stability.ERROR).found.n
    ]
    if rounding:
        text = f"relative error in {last['dtype'].iloc[0]} {'; '.join(rounding)}."
        items.append(Item("MAML to its own exact derivative in float64, where finite", "", text))
    right = stability.foretold(last)
    if right.n:
        text = f"{right.k:,} of {right.n:,} ({right}) grow more than {UNSTABLE:g}-fold beyond it and only there."
        items.append(Item("Does the edge foretell it?", "", f"Of MAML's meta-gradients {text}"))
    return items


def _unstable(last: pd.DataFrame, fewest: str) -> str:
    """The answer: on which sides the norm grows for certain, and by how much."""
    grown, parts = {}, []
    for side in ("below", "above"):
        mine = stability.of(last, MAML, side)
        answer = stability.median(mine, stability.GROWTH)
        low, high = answer.found.low, answer.found.high
        if answer.found.n == 0 or math.isnan(low):
            grown[side] = None
        else:
            grown[side] = True if low > UNSTABLE else False if high <= UNSTABLE else None
        if answer.found.n:
            text = f"{WHERE[side]} its norm changes by a factor of {_median(mine, stability.GROWTH)}"
            lost = stability.not_finite(mine)
            text += f" and {lost.k:,} of {lost.n:,} are not finite ({lost})"
            parts.append(f"{text}{_of(answer)}")
    if not parts:
        return "Not known: no MAML with more than one number of inner steps."
    below, above = grown["below"], grown["above"]
    heads = {
        (False, True): "Only beyond the edge of stability",
        (True, True): "Yes, on both sides of the edge of stability",
        (False, False): "No, on neither side of the edge of stability",
        (True, False): "Only below the edge of stability",
        (False, None): "Not below the edge of stability, and not decided beyond it",
        (None, True): "Beyond the edge of stability, and not decided below it",
        (True, None): "Below the edge of stability, and not decided beyond it",
        (None, False): "Not beyond the edge of stability, and not decided below it",
    }
    head = heads.get((below, above), "Not decided on either side of the edge of stability")
    return f"{head}: from K = {fewest.split()[0]} to K = {_steps(last)}, {'; '.join(parts)}."


def _back(last: pd.DataFrame) -> list[Item]:
    """What the way back alone multiplies the norm by."""
    parts = []
    for side in SIDES:
        mine = stability.of(last, MAML, side)
        answer = stability.median(mine, stability.BACK)
        if answer.found.n:
            parts.append(f"{WHERE[side]} {_median(mine, stability.BACK)}{_of(answer)}")
    text = f"MAML's norm is FOMAML's, which has no way back, times {'; '.join(parts)}."
    return [Item(f"The way back alone, K = {_steps(last)}", "", text)] if parts else []


def _each(here: pd.DataFrame, side: str, column: str | None, text: Any, _: int) -> str:
    """What ``text`` says of each method on a side of the edge; "" where none has a value."""
    parts = []
    for method in style.ordered(here["method"]):
        mine = here[(here["method"] == method) & (here[stability.SIDE] == side)]
        if column is not None:
            mine = mine[mine[column].notna()]
        if len(mine):
            parts.append(f"{method} {text(mine, column)} (n = {len(mine):,})")
    return f"{'; '.join(parts)}." if parts else ""


def _median(here: pd.DataFrame, column: str) -> str:
    found = stability.median(here, column).found
    return _interval(found, units.digits)


def _cosine(here: pd.DataFrame, column: str) -> str:
    return _interval(stability.median(here, column).found, units.cosine)


def _interval(found: Any, text: Any) -> str:
    middle, low, high = ("∞" if math.isinf(v) else text(v) for v in (found.median, found.low, found.high))
    return middle if math.isnan(found.low) else f"{middle} [{low}, {high}]"


def _of(answer: stability.Answer) -> str:
    tasks, seeds = (
        f"{n:,} {what}{'' if n == 1 else 's'}" for n, what in ((answer.tasks, "task"), (answer.seeds, "seed"))
    )
    return f" (n = {answer.found.n:,}: {tasks} of {seeds}, each at one or more step sizes)"


def _values(group: pd.DataFrame) -> list[tuple[str, str]]:
    texts = [_median(group, stability.GROWTH), _cosine(group, stability.COSINE)]
    texts += [_median(group, stability.ERROR), str(stability.not_finite(group))]
    known = [group[c].notna().any() for c in (stability.GROWTH, stability.COSINE, stability.ERROR)]
    return [_cell(text) if there else ("", "") for text, there in zip(texts, [*known, True], strict=True)]


def _cell(text: str) -> tuple[str, str]:
    middle, _, interval = text.partition(" [")
    return middle, f"[{interval}" if interval else ""


def _n(group: pd.DataFrame) -> str:
    answer = stability.median(group.assign(one=1.0), "one")
    return f"{len(group):,} of {answer.tasks:,} tasks, {answer.seeds} seeds"


def _fewest(here: pd.DataFrame) -> str:
    least = int(here[table.STEPS].min())
    return f"{least} inner step{'' if least == 1 else 's'}"


def _steps(last: pd.DataFrame) -> int:
    return int(last[table.STEPS].max())


def _problems(here: pd.DataFrame) -> list[str]:
    return sorted(here["problem"].unique(), key=style.problem_rank)


def _columns(here: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Problems, those in several dtypes once for each."""
    found = []
    for name in _problems(here) if len(here) else []:
        mine = here[here["problem"] == name]
        dtypes = list(style.dtypes(mine["dtype"]))[::-1]
        named = [f"{name}, {dtype}" if len(dtypes) > 1 else name for dtype in dtypes]
        found += [(one, mine[mine["dtype"] == dtype]) for one, dtype in zip(named, dtypes, strict=True)]
    return found


def _figure(here: pd.DataFrame, x: str, xlabel: str, looks: dict[str, Style], title: str) -> Figure:
    columns = _columns(here)
    figure, axes = panels.canvas(len(ROWS), max(len(columns), 2), list(looks), row=1.35)
    for panel in axes[:, len(columns) :].ravel():
        panel.remove()
    for i, (column, name) in enumerate(ROWS.items()):
        curves = [_curves(mine, x, column, looks) for _, mine in columns]
        ends = [c[["median", "low", "high"]].to_numpy(float) for some in curves for c in some.values()]
        values = np.concatenate([e.ravel() for e in ends]) if ends else np.array([])
        for j, (problem, mine) in enumerate(columns):
            _x_axis(axes[i, j], mine, x)
            scale = _y_axis(axes[i, j], column, values)
            for curve, found in curves[j].items():
                panels.curve(axes[i, j], found, looks[curve], scale)
            if not curves[j]:
                panels.note(axes[i, j], "no reference" if column == stability.COSINE else "none", empty=True)
            axes[i, j].tick_params(labelleft=j == 0, labelbottom=i == len(ROWS) - 1)
            if i == 0:
                panels.title(axes[i, j], problem, 100 // max(len(columns), 2))
        fewest = _fewest(here).split()
        axes[i, 0].set_ylabel(name.format(fewest[0], fewest[2][4:]))
    for panel in axes[-1, : len(columns)]:
        panel.set_xlabel(xlabel)
    figure.suptitle(title, fontsize=8)
    panels.legend(figure, looks, failed=False)
    return figure


def _curves(here: pd.DataFrame, x: str, column: str, looks: Collection[str]) -> dict[str, pd.DataFrame]:
    found = {}
    for curve in looks:
        mine = here[here["curve"] == curve]
        made = _shares(mine, x) if column == stability.FINITE else stability.points(mine, x, column)
        if len(made):
            found[curve] = made
    return found


def _shares(here: pd.DataFrame, x: str) -> pd.DataFrame:
    shares: dict[Any, Share] = {at: stability.not_finite(group) for at, group in here.groupby(x, sort=True)}
    rows = {at: (s.share, s.low, s.high) for at, s in shares.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["median", "low", "high"])


def _x_axis(axes: Axes, here: pd.DataFrame, x: str) -> None:
    values: Sequence[float] = here[x].dropna().astype(float).tolist()
    if x == table.STEPS:
        scales.step_axis(axes, values, 0.95)
    else:
        scales.log_axis(axes, "x", values, "ratio", ticks=4)
        axes.axvline(EDGE, color="#888888", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.5)


def _y_axis(axes: Axes, column: str, values: np.ndarray) -> scales.Scale:
    if column == stability.GROWTH:
        return scales.log_axis(axes, "y", values, "ratio", ticks=5)
    if column == stability.COSINE:
        axes.set(ylim=(-1.1, 1.1), yticks=[-1, 0, 1])
    else:
        axes.set(ylim=(-0.08, 1.08), yticks=[0, 0.5, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return Linear()


class Linear(scales.Scale):
    """A linear axis as `panels.curve` takes one."""

    def __init__(self) -> None:
        super().__init__(0.0, None)

    def place(self, values: Any) -> np.ndarray:
        """Values where they are."""
        return np.asarray(list(values), dtype=float)
