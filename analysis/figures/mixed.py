"""The meta-gradient's error with parts of it in another precision."""

import re
from collections.abc import Collection

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import grid, numerical, panels, scales, stats, style, table
from analysis.metrics import ERRORS, OWN_ROUNDING, Metric
from analysis.verdict import Verdict

ROW = 0.155  # inches


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        f"{_metric(frame).words.capitalize()}. A row is a method and, behind the bar, its parts that are in "
        "another precision than the inputs; a mark is the dtype of the inputs and of all other parts. "
        "Columns: problems."
    )


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer in words."""
    return [("", numerical.mixed(frame))]


def evidence(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the verdict's numbers are read from."""
    return {"left-of-errors": numerical.left_of_errors(frame)}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure, a column of panels for each problem."""
    metric = _metric(frame)
    frame = frame.assign(method=frame["method"].map(choice))
    names, problems = style.ordered(frame["method"]), list(dict.fromkeys(frame["problem"]))
    looks = style.dtypes(frame["dtype"])
    failed = bool((frame["status"] != "ok").any())
    entries = [*looks, *([panels.FAILED] if failed else [])]
    figure, axes = panels.canvas(1, max(len(problems), 2), entries, row=len(names) * ROW + 0.3)
    for panel, problem in zip(axes[0], problems, strict=False):
        _panel(panel, frame[frame["problem"] == problem], metric, names)
        panel.set_xlabel(metric.title.replace("\n", " "))
        panels.title(panel, problem, 40)
    for panel in axes[0, len(problems) :]:
        panel.remove()
    axes[0, 0].set_yticks(range(len(names)), names)
    panels.legend(figure, looks, failed, lines=False)
    return [figure]


def choice(label: str) -> str:
    """A method's label with its parts in float64 behind a bar: "iMAML, CG 20 | inner, solve in float64"."""
    found = re.findall(r", (inner|solve|products|dots) float64", label)
    rest = re.sub(r", (inner|solve|products|dots) float64", "", label).replace(
        ", inner gradients", " | gradients"
    )
    return f"{rest} | {', '.join(found)} float64" if found else rest


def _metric(frame: pd.DataFrame) -> Metric:
    return (grid.measured(frame, [OWN_ROUNDING]) or [ERRORS["implicit"]])[0]


def _panel(axes: Axes, frame: pd.DataFrame, metric: Metric, names: list[str]) -> None:
    points = stats.summarise(frame, ["method", "dtype"], metric)
    values = points[["median", "low", "high"]].to_numpy(dtype=float)
    scale = scales.log_axis(axes, "x", values.ravel(), metric.unit, metric.zero, ticks=5)
    places = {name: i for i, name in enumerate(names)}
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.tick_params(axis="y", length=0)
    for _, point in points.iterrows():
        look, y = style.DTYPES[str(point["dtype"])], places[point["method"]]
        middle, low, high = scale.place([point["median"], point["low"], point["high"]])
        axes.hlines(y, low, high, color=look.color, linewidth=0.9)
        axes.plot([middle], [y], **look.options(linestyle="None", markersize=4.2), clip_on=False)
    for _, failed in table.failures(frame, ["method", "dtype"]).iterrows():
        look = style.DTYPES[str(failed["dtype"])]
        panels.cross(
            axes, (1.02, places[failed["method"]]), axes.get_yaxis_transform(), int(failed["n"]), look.color
        )
    if text := grid.remark(frame, metric):
        panels.note(axes, text, empty=points.empty)
