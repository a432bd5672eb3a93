"""Which method is closest to exact MAML, and at what time and memory; for any study."""

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import dots, grid, panels, scales, stats, style, table
from analysis.figures import estimators
from analysis.metrics import CALLS, CONTROL, COSTS, ERRORS, RATIO, SECONDS, TENSOR_BYTES, Metric, listed
from analysis.style import Style

ROW = 1.9  # inches of height of a row of panels
MANY = 10  # from here on methods are numbered: more markers and colours cannot be told apart


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words; see `draw`."""
    errors, costs = _measured(frame)
    if errors and costs and _many(frame):
        return estimators.shows(frame, drawn)
    if not errors or not costs:
        alone = errors or costs or [ERRORS["maml"]]
        return (grid if _swept(frame) else dots).shows(frame, alone)
    error_of = [_error(group, errors) for _, group in frame.groupby("problem", sort=False)]
    text = listed([e for e in errors if e in error_of])
    if len(set(error_of)) > 1:
        text = f"{listed([errors[0]])}, where that reference does not exist {listed([errors[1]])}"
    text = f"Each method's meta-gradient: {text}, against its {listed(costs)}"
    text += "; one row of panels for each problem." if len(error_of) > 1 else "."
    if _swept(frame):
        text += " Joined points are numbers of inner steps, larger markers for more."
    if "control" in drawn:
        text += " The grey band is the A/A control: FOMAML's time against itself."
    return text


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Error against costs; where only one side was measured, that side per method (or over inner steps)."""
    errors, costs = _measured(frame)
    if errors and costs and _many(frame):
        return estimators.draw(frame)
    if errors and costs:
        return _scatter(table.with_axes(frame), errors, costs)
    alone = errors or costs or [ERRORS["maml"]]
    if _swept(frame):
        return grid.over_steps(frame, alone)
    return dots.per_method(table.with_axes(frame), alone)


def _measured(frame: pd.DataFrame) -> tuple[list[Metric], list[Metric]]:
    """The errors and the costs that there are; a cost without a single value has no panel next to another."""
    errors = grid.measured(frame, [ERRORS["maml"], ERRORS["implicit"]])
    if not errors:
        return [], grid.measured(frame, COSTS)
    wanted = [RATIO if frame[RATIO.column].notna().any() else SECONDS, TENSOR_BYTES]
    costs = [cost for cost in wanted if frame[cost.column].notna().any()]
    return errors, costs or grid.measured(frame, [CALLS]) or grid.measured(frame, wanted)


def _many(frame: pd.DataFrame) -> bool:
    return frame["method"].nunique() > MANY and not _swept(frame)


def _swept(frame: pd.DataFrame) -> bool:
    return frame[table.STEPS].nunique() > 1


def _scatter(frame: pd.DataFrame, errors: list[Metric], costs: list[Metric]) -> list[Figure]:
    everything = style.styles(frame["method"])
    figures = []
    for problems in grid.chunks(frame):
        shown = frame[frame["problem"].isin(problems)]
        failed = bool((shown["status"] != "ok").any())
        error_of = {p: _error(shown[shown["problem"] == p], errors) for p in problems}
        # The legend names what the panels can show: a method without this reference has no point.
        seen = [shown[(shown["problem"] == p) & shown[e.column].notna()] for p, e in error_of.items()]
        dotted = pd.concat([*seen, shown[shown["status"] != "ok"]])
        looks = {name: look for name, look in everything.items() if (dotted["method"] == name).any()}
        entries = [*looks, *([panels.FAILED] if failed else [])]
        figure, axes = panels.canvas(len(problems), len(costs), entries, ROW)
        for i, problem in enumerate(problems):
            here = shown[shown["problem"] == problem]
            error = error_of[problem]
            for j, cost in enumerate(costs):
                _cloud(axes[i, j], here, error, cost, looks)
                axes[i, j].set_xlabel(cost.title.replace("\n", " "))
            axes[i, 0].set_ylabel(error.title)
            panels.title(axes[i, 0], problem, 40, loc="left")
        panels.legend(figure, looks, failed, lines=_swept(frame))
        figures.append(figure)
    return figures


def _error(frame: pd.DataFrame, errors: list[Metric]) -> Metric:
    """The first of ``errors`` that has a value on this problem."""
    return next((e for e in errors if frame[e.column].notna().any()), errors[0])


def _cloud(axes: Axes, frame: pd.DataFrame, error: Metric, cost: Metric, looks: dict[str, Style]) -> None:
    by = ["method", table.STEPS]
    y = stats.summarise(frame, by, error)
    x = stats.summarise(frame, by, cost)
    points = y.merge(x.astype({k: y[k].dtype for k in by}), on=by, suffixes=(".y", ".x"))
    across = scales.for_methods(axes, "x", points, cost, ticks=5, end=".x")
    up = scales.for_methods(axes, "y", points, error, ticks=6, end=".y")
    if cost is RATIO:
        _control(axes, frame)
    many = np.sort(points[table.STEPS].dropna().unique())
    for name, look in looks.items():
        mine = points[points["method"] == name].sort_values(table.STEPS)
        px, py = across.place(mine["median.x"]), up.place(mine["median.y"])
        axes.plot(px, py, **look.options(marker="None", linewidth=0.8))
        axes.vlines(px, up.place(mine["low.y"]), up.place(mine["high.y"]), color=look.color, linewidth=0.7)
        axes.hlines(
            py, across.place(mine["low.x"]), across.place(mine["high.x"]), color=look.color, linewidth=0.7
        )
        size = 2.6 + 2.2 * np.searchsorted(many, mine[table.STEPS].fillna(0)) / max(len(many) - 1, 1)
        for one_x, one_y, s in zip(px, py, size if len(many) > 1 else np.full(len(px), 4.4), strict=True):
            axes.plot([one_x], [one_y], **look.options(linestyle="None", markersize=s), clip_on=False)
    panels.failure_row(axes, table.failures(frame, ["method"]), looks, ROW - 0.45)
    if text := grid.remark_on_both(frame, error, cost, points.empty):
        panels.note(axes, text, points.empty)


def _control(axes: Axes, frame: pd.DataFrame) -> None:
    control = table.cells(frame)[CONTROL.column].dropna()
    axes.axvline(1, color="#888888", linewidth=0.6, zorder=0.6)
    if len(control):
        low, high = stats.spread(control)
        band = axes.axvspan(low, high, color="#888888", alpha=0.25, linewidth=0, zorder=0.5)
        panels.mark(band, "control")
