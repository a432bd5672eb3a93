"""Panels side by side that cut the data by a setting, with a curve for each dtype."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import grid, panels, scales, stats, style, table
from analysis.metrics import Metric
from analysis.style import Style


@dataclass(frozen=True)
class Cut:
    """A row or a column of panels: what it is called, which rows of the frame are in it, and its measure."""

    title: str
    where: pd.Series
    metric: Metric | None = None


def by(frame: pd.DataFrame, column: str, name: str = "{}") -> list[Cut]:
    """A cut for each value of a column, numbers in their order and methods in that of every legend."""
    values = frame[column].dropna().unique().tolist()
    ordered = style.ordered(values) if column == "method" else sorted(values)
    return [Cut(name.format(v if isinstance(v, str) else f"{v:.3g}"), frame[column] == v) for v in ordered]


def measures(frame: pd.DataFrame, metrics: Sequence[Metric]) -> list[Cut]:
    """A cut of everything for each of the measures that there are."""
    everything = pd.Series(True, index=frame.index)
    found = grid.measured_or_first(frame, metrics)
    return [Cut(metric.title, everything, metric) for metric in found]


def over(
    frame: pd.DataFrame, x: str, xlabel: str, rows: list[Cut], columns: list[Cut], title: str, metric: Metric
) -> Figure:
    """Medians with intervals against the column ``x``; the panels of a row share their scale.

    A row without a measure of its own shows ``metric``.
    """
    looks = style.dtypes(frame["dtype"])
    frame = frame.assign(method=frame["dtype"])  # what curves, marks of failures and remarks go by
    failed = bool((frame["status"] != "ok").any())
    height = panels.ROW + panels.strip_height(frame)
    entries = [*looks, *([panels.FAILED] if failed else [])]
    figure, axes = panels.canvas(len(rows), len(columns), entries, height)
    size = (figure.get_figwidth() / len(columns) - 0.45, height - 0.35)
    for i, row in enumerate(rows):
        shown = row.metric or metric
        parts = [stats.summarise(_of(frame, row, column), ["method", x], shown) for column in columns]
        everything = pd.concat([part for part in parts if len(part)] or parts)
        for j, column in enumerate(columns):
            _panel(axes[i, j], _of(frame, row, column), everything, shown, x, looks, size)
            if i == 0:
                panels.title(axes[i, j], column.title, 24 if len(columns) > 3 else 34)
            if i == len(rows) - 1:
                axes[i, j].set_xlabel(xlabel)
            if j > 0:
                axes[i, j].tick_params(axis="y", labelleft=False)
        name = row.title if row.metric else textwrap.fill(row.title, 20)
        axes[i, 0].set_ylabel(name)
        ends = np.array([panel.get_ylim() for panel in axes[i]])  # strips of failures have moved some
        for panel in axes[i]:
            panel.set_ylim(ends[:, 0].min(), ends[:, 1].max())
    figure.suptitle(title, fontsize=8)
    panels.legend(figure, looks, failed)
    return figure


def _of(frame: pd.DataFrame, *cuts: Cut) -> pd.DataFrame:
    for cut in cuts:
        frame = frame[cut.where.reindex(frame.index)]
    return frame


def _panel(
    axes: Axes,
    frame: pd.DataFrame,
    everything: pd.DataFrame,
    metric: Metric,
    x: str,
    looks: dict[str, Style],
    size: tuple[float, float],
) -> None:
    values = everything[["median", "low", "high"]].to_numpy(dtype=float)
    scale = scales.log_axis(axes, "y", values.ravel(), metric.unit, metric.zero, ticks=6)
    scales.step_axis(axes, frame[x].dropna().astype(float).tolist(), size[0])
    points = stats.summarise(frame, ["method", x], metric)
    curves = {}
    for name in looks:
        mine = points[points["method"] == name]
        if len(mine):
            curves[name] = mine.sort_values(x).set_index(x)
    grid.draw_curves(axes, curves, looks, scale)
    failed = table.failures(frame, ["method", x]).rename(columns={x: "x"})
    panels.failure_strip(axes, failed, looks, size[1])
    if points.empty and (text := grid.remark(frame, metric)):
        panels.note(axes, text, empty=False)
