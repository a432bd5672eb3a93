"""Time and memory against the size of the problem: a column for each axis, a line for each method."""

import math
from collections.abc import Collection

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import answers, grid, panels, scales, scaling, style, table
from analysis.metrics import Metric, listed
from analysis.scaling import Axis


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    found, swept, metrics = _measured(frame)
    against = [axis.title for axis in swept]
    text = f"Of each method: {listed(metrics)}, against {', '.join(against)}"
    text += ": a column each, in which all else stays at one point." if len(against) > 1 else "."
    if scaling.STEADY in metrics:
        text += (
            " A time is the median ratio to the eager first-order MAML that is timed beside each method, "
            "with the same K and tasks, times the median of that reference over all methods: so the "
            "machine's changing speed drops out."
        )
    shown = pd.concat(swept.values())["id"].nunique()
    if shown < len(found):
        text += f" {len(found) - shown} of {len(found)} cells lie off these axes and are not shown."
    return f"{text} A power law is a straight line."


def words(frame: pd.DataFrame) -> dict[str, str]:
    """The exponents, for the caption."""
    return {"Exponents": scaling.described(frame)}


def _measured(frame: pd.DataFrame) -> tuple[pd.DataFrame, dict[Axis, pd.DataFrame], list[Metric]]:
    """`scaling.rows`, the axes with their cells, and the costs that were measured."""
    found = scaling.rows(frame)
    swept = scaling.axes(found) or {scaling.AXES[0]: found}
    return found, swept, grid.measured_or_first(found, scaling.COSTS)


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return answers.growth(frame)


def evidence(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the sentence's numbers are read from."""
    return {"exponents": answers.exponents(frame)}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure."""
    _, swept, metrics = _measured(frame)
    shown = pd.concat(swept.values()).drop_duplicates("id")
    looks = style.styles(shown["line"])
    failed = bool((shown["status"] != "ok").any())
    height = panels.ROW + panels.strip_height(shown)
    figure, axes = panels.canvas(
        len(metrics), len(swept), [*looks, *([panels.FAILED] if failed else [])], height
    )
    for i, metric in enumerate(metrics):
        curves = {axis: scaling.curves(here, axis, metric) for axis, here in swept.items()}
        everything = [c.to_numpy(dtype=float).ravel() for lines in curves.values() for c in lines.values()]
        values = [v for some in everything for v in some if not math.isnan(v)]
        for j, (axis, here) in enumerate(swept.items()):
            scale = scales.log_axis(axes[i, j], "y", values, metric.unit, metric.zero, ticks=5)
            _x_axis(axes[i, j], here, axis, figure.get_figwidth() / len(swept) - 0.6)
            grid.draw_curves(axes[i, j], curves[axis], looks, scale)
            bad = table.failures(here.assign(method=here["line"]), ["method", axis.column])
            panels.failure_strip(axes[i, j], bad.rename(columns={axis.column: "x"}), looks, height - 0.35)
            axes[i, j].tick_params(axis="y", labelleft=j == 0 or failed)  # strips make scales differ
            axes[i, j].set_xlabel(axis.title if i == len(metrics) - 1 else "")
            if text := grid.remark(here, metric, 30):
                panels.note(axes[i, j], text, empty=not curves[axis])
        axes[i, 0].set_ylabel(metric.title)
    figure.align_xlabels()
    panels.legend(figure, looks, failed)
    return [figure]


def _x_axis(axes: Axes, here: pd.DataFrame, axis: Axis, inches: float) -> None:
    values = here[axis.column].dropna().astype(float).tolist()
    if axis.column == "parameters":
        scales.log_axis(axes, "x", values, "count", ticks=4)
    else:
        scales.step_axis(axes, values, inches)
