"""Measures per method without a sweep: a row of dots per method, a column of panels per measure."""

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import grid, panels, scales, stats, style, table
from analysis.metrics import Metric, listed
from analysis.style import Style

ROW = 0.17  # inches per method


def shows(frame: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """`per_method` in words."""
    each = "; a row of panels for each problem" if frame["problem"].nunique() > 1 else ""
    return f"Of each method's meta-gradient, a line for each method: {listed(metrics)}{each}."


def per_method(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[Figure]:
    """One figure per three problems; methods are named beside their dots, not in a legend."""
    looks = style.styles(frame["method"])
    ticks, letters = (5, 60) if len(metrics) < 3 else (4, 40) if len(metrics) < 4 else (2, 17)
    figures = []
    for problems in grid.chunks(frame):
        entries = [panels.FAILED] if (frame["status"] != "ok").any() else []
        figure, axes = panels.canvas(len(problems), len(metrics), entries, row=len(looks) * ROW + 0.45)
        for i, problem in enumerate(problems):
            for j, metric in enumerate(metrics):
                here = frame[frame["problem"] == problem]
                _dots(axes[i, j], here, metric, looks, ticks, letters)
                axes[i, j].set_yticks(range(len(looks)), list(looks) if j == 0 else [""] * len(looks))
                axes[i, j].set_xlabel(textwrap.fill(metric.title.replace("\n", " "), letters))
            panels.title(axes[i, 0], problem, 40, loc="left")
        panels.legend(figure, {}, bool(entries))
        figures.append(figure)
    return figures


def _dots(
    axes: Axes, frame: pd.DataFrame, metric: Metric, looks: dict[str, Style], ticks: int, letters: int
) -> None:
    points = stats.summarise(frame, ["method"], metric)
    scale = scales.for_methods(axes, "x", points, metric, ticks)
    places = {name: i for i, name in enumerate(looks)}
    axes.set_ylim(len(looks) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    for _, point in points.iterrows():
        look, y = looks[point["method"]], places[point["method"]]
        middle, low, high = scale.place([point["median"], point["low"], point["high"]])
        axes.hlines(y, low, high, color=look.color, linewidth=0.9)
        axes.plot([middle], [y], **look.options(linestyle="None", markersize=4.4), clip_on=False)
    for _, failed in (
        table.failures(frame, ["method"]).groupby("method", as_index=False)["n"].sum().iterrows()
    ):
        panels.cross(axes, (1.02, places[failed["method"]]), axes.get_yaxis_transform(), int(failed["n"]))
    if text := grid.remark(frame, metric, letters + 6):
        panels.note(axes, text, empty=points.empty)
