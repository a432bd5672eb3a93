"""Measures against the number of inner steps: rows are measures, columns are problems, curves are methods."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import panels, reasons, scales, stats, style, table
from analysis.metrics import Metric, listed
from analysis.style import Style

PROBLEMS_PER_FIGURE = 3


def chunks(frame: pd.DataFrame) -> list[list[str]]:
    """The problems in groups of about equal size that fit side by side."""
    problems = list(dict.fromkeys(frame["problem"]))
    size = math.ceil(len(problems) / math.ceil(len(problems) / PROBLEMS_PER_FIGURE))
    return [problems[i : i + size] for i in range(0, len(problems), size)]


def measured(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[Metric]:
    """Those of ``metrics`` that have a value somewhere, or a reason for having none."""
    return [
        m
        for m in metrics
        if frame[m.column].notna().any() or (m.missing is not None and frame[m.missing].notna().any())
    ]


def measured_or_first(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[Metric]:
    """What is `measured`, or else the first of ``metrics``, whose empty panel says that there is nothing."""
    return measured(frame, metrics) or list(metrics[:1])


def shows(frame: pd.DataFrame, metrics: Sequence[Metric]) -> str:
    """`over_steps` in words."""
    what = listed(measured_or_first(frame, metrics))
    several = frame["problem"].nunique() > 1
    return (
        f"Of each method's meta-gradient of the whole batch of tasks, against the number of inner steps K: "
        f"{what}{'; a column for each problem' if several else ''}."
    )


def over_steps(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[Figure]:
    """One figure per three problems; medians with intervals, failures in a strip above the data."""
    frame = table.with_axes(frame)
    rows = measured_or_first(frame, metrics)
    everything = style.styles(frame["method"])
    figures = []
    for problems in chunks(frame):
        here = frame[frame["problem"].isin(problems)]
        looks = {name: look for name, look in everything.items() if (here["method"] == name).any()}
        failed = bool((here["status"] != "ok").any())
        height = panels.ROW + panels.strip_height(here)
        entries = [*looks, *([panels.FAILED] if failed else [])]
        figure, axes = panels.canvas(len(rows), len(problems), entries, height)
        size = (figure.get_figwidth() / len(problems) - 0.6, height - 0.35)
        for i, metric in enumerate(rows):
            for j, problem in enumerate(problems):
                _panel(axes[i, j], here[here["problem"] == problem], metric, looks, size)
                if i == 0:
                    panels.title(axes[i, j], problem, 34)
                if i == len(rows) - 1:
                    axes[i, j].set_xlabel("inner steps K")
            axes[i, 0].set_ylabel(metric.title)
        panels.legend(figure, looks, failed)
        figures.append(figure)
    return figures


def _panel(
    axes: Axes, frame: pd.DataFrame, metric: Metric, looks: dict[str, Style], size: tuple[float, float]
) -> None:
    points = stats.summarise(frame, ["method", table.STEPS], metric)
    scale = scales.for_methods(axes, "y", points, metric, ticks=5)
    scales.step_axis(axes, frame[table.STEPS].dropna().astype(float).tolist(), size[0])
    curves = {}
    for name, look in looks.items():
        mine = points[points["method"] == name]
        for _, point in mine[mine[table.STEPS].isna()].iterrows():
            panels.level(axes, point, look, scale)
        with_steps = mine[mine[table.STEPS].notna()]
        if len(with_steps):
            curves[name] = with_steps.sort_values(table.STEPS).set_index(table.STEPS)
    draw_curves(axes, curves, looks, scale)
    failed = table.failures(frame, ["method", table.STEPS]).rename(columns={table.STEPS: "x"})
    panels.failure_strip(axes, failed, looks, size[1])
    if text := remark(frame, metric):
        panels.note(axes, text, empty=points.empty)


def draw_curves(
    axes: Axes, curves: dict[str, pd.DataFrame], looks: dict[str, Style], scale: scales.Scale
) -> None:
    """Curves by name, as `panels.curve` takes them; those on top of each other take turns with markers."""
    for together in coinciding({name: curve["median"] for name, curve in curves.items()}):
        for k, name in enumerate(together):
            panels.curve(axes, curves[name], looks[name], scale, (k % len(together), len(together)))
            if len(together) > 1:
                panels.mark(axes.lines[-1], "turns")


def coinciding(curves: dict[str, pd.Series]) -> list[list[str]]:
    """Names in groups whose curves lie on top of each other: nowhere more than 1 % apart."""
    groups: list[list[str]] = []
    for name, curve in curves.items():
        for group in groups:
            first = curves[group[0]]
            if curve.index.equals(first.index) and np.allclose(curve, first, rtol=0.01, atol=0):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def remark_on_both(frame: pd.DataFrame, up: Metric, across: Metric, empty: bool) -> str:
    """`remark` for a panel of one measure against another: on the one that keeps it ``empty``, if it is."""
    found = [remark(frame, metric) for metric in (up, across)]
    if empty:
        ok = frame[frame["status"] == "ok"]
        absent = [text for text, m in zip(found, (up, across), strict=True) if not ok[m.column].notna().any()]
        return absent[-1] if absent else "no method has both"
    return found[0] or found[1]


def remark(frame: pd.DataFrame, metric: Metric, width: int = 56) -> str:
    """Why a panel is empty, or which part of its values could not be had; "" if all is there.

    Wrapped to ``width`` characters, the reason of an empty panel, which stands inside it, to 34 at most.
    """
    ok = frame[frame["status"] == "ok"]
    if ok.empty:
        return "no cell ended well"
    value = ok[metric.column]
    why = ok[metric.missing][value.isna()].dropna() if metric.missing else pd.Series(dtype="string")
    what = "reference" if metric.per_task else "value"
    if not value.notna().any():
        if why.empty:
            return f"no {metric.kind} measured"
        example = reasons.kinds(why)[0].example
        return textwrap.fill(f"no {what}: {example}", min(width, 34), max_lines=4, placeholder=" …")
    if why.empty:
        return ""
    known = value.notna().groupby(ok["method"], observed=True).any()
    without = style.ordered(known.index[~known])
    if not value[~ok["method"].isin(without)].isna().any():
        named = "; ".join(without) if len(without) <= 3 else f"{len(without)} methods"
        return textwrap.fill(f"no {what}: {named}", width)
    share = len(why) / (len(why) + value.notna().sum())
    part = f"{share:.0%}" if share >= 0.01 else "under 1%"
    return f"no {what} for {part} of the {'tasks' if metric.per_task else 'cells'}"
