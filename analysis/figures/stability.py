"""MAML's meta-gradient across the edge of stability: its norm, its angle, what is not finite."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from analysis import panels, scales, stability, style, table
from analysis import stability_told as told
from analysis.stability import BANDS, EDGE, MAML, SIDES
from analysis.stability_told import WHERE
from analysis.stats import Share
from analysis.style import Style
from analysis.verdict import EVERYWHERE, Item, Verdict

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
ROWS = {stability.GROWTH: "norm to that\nwith {}", stability.COSINE: "cosine to\nimplicit gradient",
        stability.FINITE: "tasks not finite"}  # fmt: skip
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
    if stability.measured(frame).empty:
        return {}
    return {
        "Statistic": "Medians over tasks and inner step sizes with 95% bootstrap interval over seeds, then "
        "tasks; a meta-gradient that is not finite counts as an infinite norm, and has no cosine. Shares "
        "with 95% Wilson intervals, which take the tasks of a seed for independent. Cells with a task that "
        "is not finite count.",
        "Axes": "Logarithmic but for the cosine and the share.",
    }


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer over all problems, then for each."""
    here = stability.measured(frame)
    if here.empty:
        return [("", [Verdict(EVERYWHERE, "", [Item("No verdict", "", NOTHING)])])]
    found = [Verdict(EVERYWHERE, "", told.items(here))]
    if here["problem"].nunique() > 1:
        found += [Verdict(name, "", told.items(here[here["problem"] == name])) for name in _problems(here)]
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
        heads = ["", f"norm to that with {told.fewest(mine)}", "cosine to implicit gradient"]
        heads += ["error to exact MAML", "not finite", "n", ""]
        made.append({"problem": f"{name}, K = {told.steps(last)}", "heads": heads, "rows": body})
    return made


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Against inner steps, then across the edge."""
    here = stability.measured(frame)
    if here.empty:
        return panels.nothing(frame, "no curvature measured")
    fewest = told.fewest(here).replace("inner ", "")
    exact = here[here["method.name"] == MAML].assign(curve=lambda f: f[stability.BAND])
    last = stability.longest(here).assign(curve=lambda f: f["method"])
    last[stability.TIMES_CURVATURE] = last.groupby(["problem", "dtype", "method.inner.learning_rate"])[
        stability.TIMES_CURVATURE
    ].transform("median")
    bands = {name: LOOKS[name] for name in BANDS if (exact["curve"] == name).any()}
    methods, most = style.styles(last["curve"]), f"K = {told.steps(last)}"
    return [
        _figure(exact, table.STEPS, "inner steps K", bands, "exact MAML, by inner step times L", fewest),
        _figure(last, stability.TIMES_CURVATURE, "inner step times L", methods, most, fewest),
    ]


def _values(group: pd.DataFrame) -> list[tuple[str, str]]:
    texts = [told.median(group, stability.GROWTH), told.cosine(group, stability.COSINE)]
    texts += [told.median(group, stability.ERROR), str(stability.not_finite(group))]
    known = [group[c].notna().any() for c in (stability.GROWTH, stability.COSINE, stability.ERROR)]
    return [_cell(text) if there else ("", "") for text, there in zip(texts, [*known, True], strict=True)]


def _cell(text: str) -> tuple[str, str]:
    middle, _, interval = text.partition(" [")
    return middle, f"[{interval}" if interval else ""


def _n(group: pd.DataFrame) -> str:
    answer = stability.median(group.assign(one=1.0), "one")
    return f"{len(group):,} of {answer.tasks:,} tasks, {answer.seeds} seeds"


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


def _figure(
    here: pd.DataFrame, x: str, xlabel: str, looks: dict[str, Style], title: str, fewest: str
) -> Figure:
    columns = _columns(here)
    figure, axes = panels.canvas(len(ROWS), max(len(columns), 2), list(looks), row=1.35)
    for panel in axes[:, len(columns) :].ravel():
        panel.remove()
    for i, (column, name) in enumerate(ROWS.items()):
        curves = [_curves(mine, x, column, looks) for _, mine in columns]
        for j, (problem, mine) in enumerate(columns):
            _x_axis(axes[i, j], mine, x)
            scale = _y_axis(axes[i, j], column, curves[j])
            for curve, found in curves[j].items():
                _curve(axes[i, j], found, looks[curve], scale)
            if not curves[j]:
                panels.note(axes[i, j], "no reference" if column == stability.COSINE else "none", empty=True)
            axes[i, j].tick_params(labelleft=j == 0 or scale is not None, labelbottom=i == len(ROWS) - 1)
            if i == 0:
                panels.title(axes[i, j], problem, 80 // max(len(columns), 2))
        axes[i, 0].set_ylabel(name.format(fewest))
    for panel in axes[-1, : len(columns)]:
        panel.set_xlabel(xlabel)
    figure.suptitle(title, fontsize=8)
    panels.legend(figure, looks, failed=False)
    return figure


def _curve(axes: Axes, found: pd.DataFrame, look: Style, scale: scales.Scale | None) -> None:
    if scale is not None:
        panels.curve(axes, found, look, scale)
        return
    x = found.index.to_numpy(dtype=float)
    axes.plot(x, found["median"], **look.options(), clip_on=False)
    axes.vlines(x, found["low"], found["high"], color=look.color, linewidth=0.7, alpha=0.7)


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


def _y_axis(axes: Axes, column: str, curves: dict[str, pd.DataFrame]) -> scales.Scale | None:
    """Growth has a scale of its own in every panel; cosines and shares have the same, which is linear."""
    if column == stability.GROWTH:
        ends = [found[["median", "low", "high"]].to_numpy(float).ravel() for found in curves.values()]
        scale = scales.log_axis(axes, "y", np.concatenate(ends) if ends else [], "ratio", ticks=4)
        axes.yaxis.set_minor_locator(NullLocator())
        return scale
    if column == stability.COSINE:
        axes.set(ylim=(-1.1, 1.1), yticks=[-1, 0, 1])
    else:
        axes.set(ylim=(-0.08, 1.08), yticks=[0, 0.5, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return None
