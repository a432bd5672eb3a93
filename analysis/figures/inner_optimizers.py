"""Inner optimizers at equal error: error against time, and each cost as a multiple of gradient descent's."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import inner_optimizers as numbers
from analysis import panels, scales, stats, style, units
from analysis.inner_optimizers import COSTS, CPU_SECONDS, ERROR, FAMILY, SECONDS, TARGETS, Reached
from analysis.metrics import TENSOR_BYTES, Metric
from analysis.style import Style
from analysis.verdict import EVERYWHERE, Item, Verdict

LANE = 0.075  # inches of height of one optimizer
LOOKS = {
    "gradient descent": Style("#000000", "o", "-", filled=False),
    "Nesterov": Style("#0072B2", "s", (0, (6, 1.5))),
    "momentum": Style("#009E73", "D", (0, (4, 1.2, 1, 1.2))),
    "Adam": Style("#CC79A7", "v", (0, (1, 1))),
    "Armijo": Style("#882255", "P", (0, (5, 1, 1, 1))),
    "L-BFGS": Style("#D55E00", "^", (0, (2, 1))),
    "Hessian-free": Style("#5a5200", "X", (0, (6, 1, 1, 1))),
}
_BEST = {SECONDS: "is the fastest", CPU_SECONDS: "takes the least CPU", TENSOR_BYTES: "the least memory"}
TABLE = "At the fewest swept inner steps K that reach the error: medians with 95% intervals in brackets."


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "First figure: the median relative error to the exact implicit gradient against the time of one "
        "meta-gradient of all tasks, along the swept numbers of inner steps K, a curve for each optimizer; "
        "horizontal lines are the errors at which costs are compared. Second figure: each cost at the fewest "
        "K that reach the error, as a multiple of gradient descent's at its own, where both reach it."
    )


def words(frame: pd.DataFrame) -> dict[str, str]:
    """What the caption takes from the records beyond every caption."""
    return {
        "Compared": "At the fewest swept K that reach an error, nothing interpolated. Multiples of gradient "
        "descent are medians over seeds of quotients on the same seed. Cells that did not converge count "
        "here: to stop after K steps is what is compared.",
        "Statistic": f"{stats.STATISTIC} Cells that failed are in no median, but for these.",
    }


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Error against time, then multiples of gradient descent."""
    if (frame["status"] != "ok").all():
        return panels.nothing(frame, "")
    here = numbers.prepared(frame)
    timed = here[here[SECONDS.column].notna() & here[ERROR.column].notna()]
    figures = [_against_time(timed)] if len(timed) else []
    compared = numbers.comparisons(here) if len(here) else []
    if any(numbers.baseline(one) for one in compared):
        figures.append(_multiples(here, compared))
    return figures or panels.nothing(frame, "no inner optimizer with error and time")


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The cheapest optimizer at equal error: over everything, then for each problem, method and target."""
    here = numbers.prepared(frame)
    compared = numbers.comparisons(here) if len(here) else []
    found = [Verdict(EVERYWHERE, "", [Item("Cheapest at equal error", "", _answer(compared))])]
    for comparison in compared:
        first = comparison[0]
        setting = f"{first.family}, error below {100 * first.target:g} %"
        found.append(Verdict(first.problem, setting, _items(comparison)))
    return [("", found)]


def tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each problem: a row for each method, optimizer and target."""
    here = numbers.prepared(frame)
    shown = [metric for metric in COSTS if len(here) and here[metric.column].notna().any()]
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for comparison in numbers.comparisons(here) if len(here) else []:
        by_problem.setdefault(comparison[0].problem, []).extend(_row(one, shown) for one in comparison)
    heads = ["method", "error below", "K", "error", *(metric.short for metric in shown), "n", "not reached"]
    return [
        {"problem": problem, "first": "optimizer", "heads": heads, "rows": rows}
        for problem, rows in by_problem.items()
    ]


def _row(one: Reached, shown: list[Metric]) -> dict[str, Any]:
    values = [("", "")] * (1 + len(shown))
    if one.error is not None:
        costs = [(metric, one.cost(metric)) for metric in shown]
        values = [_cell(ERROR, one.error), *(_cell(metric, cost) for metric, cost in costs)]
    return {
        "method": one.optimizer, "color": _look(one.optimizer).color,
        "axes": [one.family, f"{100 * one.target:g} %", "" if one.steps is None else str(one.steps)],
        "values": values, "n": _count(one), "failed": one.why,
    }  # fmt: skip


def _cell(metric: Metric, found: stats.Interval) -> tuple[str, str]:
    if not found.n:
        return "", ""
    text, _, interval = metric.describe(*found[:3]).partition(" [")
    return text, f"[{interval}" if interval else ""


def _answer(compared: list[list[Reached]]) -> str:
    """Who is the fastest most often, and who takes the least CPU and memory."""
    texts = []
    for metric, verb in _BEST.items():
        won = [best.optimizer for one in compared if (best := numbers.fastest(one, metric)) is not None]
        if won:
            (first, n), *others = Counter(won).most_common()
            rest = f" ({', '.join(f'{name} in {k}' for name, k in others)})" if others else ""
            what = "" if texts else " comparisons of problem, method and error"
            texts.append(f"{first} {verb} in {n} of {len(won)}{what}{rest}")
    if not texts:
        return "No verdict: no inner optimizer has both an error and a cost."
    speeds = [
        best.ratio(base, SECONDS).median
        for one in compared
        if (best := numbers.fastest(one)) is not None
        and (base := numbers.baseline(one)) is not None
        and best.ratio(base, SECONDS).n
    ]
    if speeds:
        texts.append(
            f"the fastest takes {units.digits(min(speeds))} to {units.digits(max(speeds))} times gradient "
            f"descent's seconds where that reaches the error too ({len(speeds)} comparisons)"
        )
    answer = "; ".join(texts)
    return f"{answer[:1].upper()}{answer[1:]}."


def _items(comparison: list[Reached]) -> list[Item]:
    best, base = numbers.fastest(comparison), numbers.baseline(comparison)
    items = []
    if best is not None and best.error is not None:
        error = ERROR.describe(*best.error[:3])
        text = f" at K = {best.steps} with {error} error: {_costs(best)} ({_count(best)})."
        if base is not None and best.optimizer != base.optimizer:
            text += f" {_times(best, base)}"
        others = [one for one in comparison if one.steps is not None and one is not best]
        if ties := [o.optimizer for o in others if o.cost(SECONDS).low <= best.cost(SECONDS).high]:
            text += f" Not told apart from it in time: {', '.join(ties)}."
        items.append(Item("Fastest", best.optimizer, text))
    others = [one for one in comparison if one.steps is not None and one is not best]
    if others:
        parts = [f"{o.optimizer} K = {o.steps}, {_costs(o)}" for o in others]
        items.append(Item("Others", "", "; ".join(parts) + "."))
    if missed := [f"{o.optimizer} {o.why}" for o in comparison if o.steps is None]:
        items.append(Item("Do not get there", "", "; ".join(missed) + "."))
    return items


def _costs(one: Reached) -> str:
    found = [(metric, one.cost(metric)) for metric in COSTS]
    return ", ".join(f"{m.short} {m.describe(*cost[:3])}" for m, cost in found if cost.n)


def _times(best: Reached, base: Reached) -> str:
    """Text such as "0.41 [0.38, 0.45] times gradient descent's (K = 20) seconds, 1.2 [..] times its ..."."""
    parts = []
    for metric in COSTS:
        found = best.ratio(base, metric)
        if found.n:
            parts.append(f"{units.interval(*found[:3])} times its {metric.short}")
    return f"Against gradient descent (K = {base.steps}): {', '.join(parts)}." if parts else ""


def _count(one: Reached) -> str:
    return "" if one.error is None else f"{one.error.n} tasks, {one.error.n_groups} seeds"


def _look(optimizer: str) -> Style:
    return LOOKS.get(optimizer) or style.of(optimizer)


def _against_time(frame: pd.DataFrame) -> Figure:
    families, problems = list(frame[FAMILY].unique()), list(frame["problem"].unique())
    looks = {name: _look(name) for name in LOOKS if (frame[numbers.OPTIMIZER] == name).any()}
    figure, axes = panels.canvas(len(families), len(problems), list(looks), row=1.9)
    for i, family in enumerate(families):
        for j, problem in enumerate(problems):
            panel, mine = axes[i, j], frame[(frame[FAMILY] == family) & (frame["problem"] == problem)]
            curves = list(numbers.curves(mine, SECONDS))
            errors = np.concatenate(
                [c[["median", "low", "high"]].to_numpy().ravel() for _, c in curves] or [[]]
            )
            costs = np.concatenate([c["cost"].to_numpy() for _, c in curves] or [[]])
            up = scales.log_axis(panel, "y", errors[np.isfinite(errors)], "error", 1e-17, ticks=6)
            scales.log_axis(panel, "x", costs, "seconds", ticks=3)
            for target in TARGETS:
                panel.axhline(target, color="#888888", linewidth=0.6, linestyle=(0, (4, 2)), zorder=0.6)
            for optimizer, curve in curves:
                panels.curve(panel, curve.set_index("cost"), _look(optimizer), up)
            if i == 0:
                panels.title(panel, str(problem), 28)
            if i == len(families) - 1:
                panel.set_xlabel("time of one meta-gradient")
        axes[i, 0].set_ylabel(f"{family}: error to\nimplicit gradient")
    panels.legend(figure, looks, failed=False)
    return figure


def _multiples(frame: pd.DataFrame, compared: list[list[Reached]]) -> Figure:
    shown = [metric for metric in COSTS if frame[metric.column].notna().any()]
    looks = {one.optimizer: _look(one.optimizer) for comparison in compared for one in comparison}
    looks = {name: looks[name] for name in [*LOOKS, *looks] if name in looks}
    band = len(looks) + 1
    figure, axes = panels.canvas(1, len(shown), list(looks), row=len(compared) * band * LANE)
    for j, metric in enumerate(shown):
        _lanes(axes[0, j], compared, metric, looks)
        axes[0, j].set_ylim(len(compared) * band, 0)
        middles = [(k + 0.5) * band for k in range(len(compared))]
        axes[0, j].set_yticks(middles, [_name(one[0]) for one in compared])
        axes[0, j].tick_params(axis="y", length=0, labelleft=j == 0)
        axes[0, j].grid(visible=False, axis="y")
        for k in range(0, len(compared), 2):
            axes[0, j].axhspan(k * band, (k + 1) * band, color="#f3f3f3", linewidth=0, zorder=0)
        axes[0, j].set_xlabel(metric.short.replace(" ", "\n", 1))
    figure.suptitle("multiples of gradient descent at equal error", fontsize=8)
    panels.legend(figure, looks, failed=False, lines=False)
    return figure


def _name(one: Reached) -> str:
    return f"{one.problem.partition(',')[0]}\n{one.family}, {100 * one.target:g} %"


def _lanes(axes: Axes, compared: list[list[Reached]], metric: Metric, looks: dict[str, Style]) -> None:
    points = []
    for k, comparison in enumerate(compared):
        base = numbers.baseline(comparison)
        for one in comparison if base is not None else []:
            if one.steps is not None and base is not None and (found := one.ratio(base, metric)).n:
                points.append(
                    (k * (len(looks) + 1) + 1 + list(looks).index(one.optimizer), one.optimizer, found)
                )
    values = np.array([found[:3] for *_, found in points], dtype=float).ravel()
    scale = scales.log_axis(axes, "x", values[np.isfinite(values)], "ratio", ticks=4)
    axes.axvline(1, color="black", linewidth=0.8, zorder=0.6)
    for y, optimizer, found in points:
        middle, low, high = scale.place(found[:3])
        axes.hlines(y, low, high, color=looks[optimizer].color, linewidth=0.9)
        axes.plot([middle], [y], **looks[optimizer].options(linestyle="None", markersize=3.6), clip_on=False)
