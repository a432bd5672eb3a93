"""What every figure is made of: curves with intervals, failure strips, remarks, legends outside the data."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.transforms import Transform

from analysis import style
from analysis.scales import Scale
from analysis.style import Style

ROW = 1.55  # inches of height of one row of panels
LEGEND_ROW = 0.155
HANDLE = 0.55
MAX_STRIP = 5  # rows of failures; the methods beyond share the last one
STRIP_ROW = 0.065  # inches of height of such a row
GREY = "#444444"
FAILED = "cells that failed (number)"
CROSS: dict[str, Any] = {
    "marker": "x",
    "linestyle": "None",
    "color": GREY,
    "markersize": 3.4,
    "markeredgewidth": 1.0,
}
SMALL: dict[str, Any] = {"linestyle": "None", "markersize": 2.8, "markeredgewidth": 0.6}


def mark(artist: Artist, element: str) -> None:
    """Name what ``artist`` is, so that a caption speaks of it only where it is drawn: see `elements`."""
    artist.set_label(f"_{element}")  # no legend takes a label with an underscore


def elements(figures: Iterable[Figure]) -> set[str]:
    """The names given by `mark` in ``figures``, among others that matplotlib gives."""
    labels = (str(artist.get_label()) for figure in figures for artist in figure.findobj())
    return {label[1:] for label in labels if label.startswith("_")}


def canvas(
    rows: int, columns: int, labels: Sequence[str], row: float = ROW, handle: float = HANDLE
) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` x ``columns`` panels with room below for a legend of ``labels``, and its axes.

    One column of panels is as wide as a page's column, several as wide as the page. ``row`` and ``handle``
    (what stands before a label in the legend) are in inches.
    """
    width = style.ONE_COLUMN if columns == 1 else style.FULL_WIDTH
    below = math.ceil(len(labels) / legend_columns(labels, width, handle)) * LEGEND_ROW + 0.1
    figure = Figure(figsize=(width, rows * row + 0.55 + below), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def legend_columns(labels: Sequence[str], width: float, handle: float = HANDLE) -> int:
    """How many columns of a legend fit into ``width`` inches."""
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), int(width / (handle + 0.056 * longest))))


def curve(
    axes: Axes, points: pd.DataFrame, look: Style, scale: Scale, every: tuple[int, int] = (0, 1)
) -> None:
    """Medians joined by a line, their intervals as bars; ``points`` has median, low, high and x as its index.

    ``every`` says which points have a marker: (first, stride).
    """
    x = points.index.to_numpy(dtype=float)
    middle, low, high = (scale.place(points[k]) for k in ("median", "low", "high"))
    axes.plot(x, middle, **look.options(markevery=every if len(x) > every[1] else None), clip_on=False)
    axes.vlines(x, np.where(np.isnan(low), middle, low), high, color=look.color, linewidth=0.7, alpha=0.7)


def level(axes: Axes, point: pd.Series, look: Style, scale: Scale) -> None:
    """A method that knows no inner steps: its median across the panel, its interval as a band."""
    middle, low, high = scale.place([point["median"], point["low"], point["high"]])
    if np.isfinite(middle):
        axes.axhline(middle, color=look.color, linestyle=look.line)
        axes.plot(
            [1],
            [middle],
            **look.options(linestyle="None"),
            transform=axes.get_yaxis_transform(),
            clip_on=False,
        )
    if np.isfinite(low) and np.isfinite(high):
        axes.axhspan(low, high, color=look.color, alpha=0.15, linewidth=0)


def failure_strip(axes: Axes, failed: pd.DataFrame, looks: dict[str, Style], inches: float) -> None:
    """Crosses above the data: a row per method that failed, its marker at the right end, each cross at its x.

    ``failed`` has columns method, x (NaN: no place on the axis), n. Where more methods failed than there are
    rows, the last row is shared and its crosses are grey. ``inches`` is about the panel's height.
    """
    if failed.empty:
        return
    methods = style.ordered(failed["method"])
    rows = {name: min(i, MAX_STRIP - 1) for i, name in enumerate(methods)}
    bottom, step = _make_room(axes, max(rows.values()) + 1, inches)
    totals = failed.assign(row=failed["method"].map(rows)).groupby(["row", "x"], dropna=False, as_index=False)
    for _, total in totals["n"].sum().iterrows():
        owners = [name for name in methods if rows[name] == total["row"]]
        y = bottom + step * (max(rows.values()) - total["row"] + 0.5)
        alone = looks[owners[0]] if len(owners) == 1 else None
        x, transform = (
            (0.5, axes.transAxes) if pd.isna(total["x"]) else (total["x"], axes.get_xaxis_transform())
        )
        cross(axes, (x, y), transform, int(total["n"]), alone.color if alone else GREY)
        if alone:
            (owner,) = axes.plot(
                [1.025], [y], **alone.options(**SMALL), transform=axes.transAxes, clip_on=False
            )
            mark(owner, "rows")
        else:
            mark(axes.lines[-1], "shared")


def failure_row(axes: Axes, failed: pd.DataFrame, looks: dict[str, Style], inches: float) -> None:
    """The same where the x axis is no setting: the methods that failed side by side, each with a cross."""
    if failed.empty:
        return
    bottom, step = _make_room(axes, 1, inches)
    y = bottom + 0.5 * step
    totals = failed.groupby("method")["n"].sum()
    for i, name in enumerate(style.ordered(totals.index)):
        x = (i + 0.5) / len(totals)
        (owner,) = axes.plot(
            [x - 0.025], [y], **looks[name].options(**SMALL), transform=axes.transAxes, clip_on=False
        )
        mark(owner, "rows")
        cross(axes, (x, y), axes.transAxes, int(totals[name]), looks[name].color)


def cross(axes: Axes, at: tuple[float, float], transform: Transform, n: int, color: str = GREY) -> None:
    """One mark of ``n`` failed cells."""
    look: dict[str, Any] = CROSS | {"color": color}
    (drawn,) = axes.plot([at[0]], [at[1]], **look, transform=transform, clip_on=False)
    mark(drawn, "crosses")
    if n > 1:
        axes.annotate(
            str(n), at, xycoords=transform, xytext=(2.8, 0), textcoords="offset points", fontsize=5.5,
            va="center", color=GREY, annotation_clip=False,
        )  # fmt: skip


def strip_height(frame: pd.DataFrame) -> float:
    """Inches that the failures of ``frame`` take in the panel of the problem where most methods failed."""
    failed = frame[frame["status"] != "ok"].groupby("problem")["method"].nunique()
    return 0.0 if failed.empty else STRIP_ROW * (min(int(failed.max()), MAX_STRIP) + 1)


def _make_room(axes: Axes, rows: int, inches: float) -> tuple[float, float]:
    """Set ``rows`` rows at the top apart; where they begin and the height of each, in axes fractions."""
    step = STRIP_ROW / inches
    share = step * (rows + 0.6)
    low, high = axes.get_ylim()
    axes.set_ylim(low, low * (high / low) ** (1 / (1 - share)))
    strip = Rectangle(
        (0, 1 - share), 1, share, transform=axes.transAxes, color="#f4ebe8", linewidth=0, zorder=0.4
    )
    axes.add_patch(strip)
    return 1 - share + 0.3 * step, step


def nothing(frame: pd.DataFrame, text: str) -> list[Figure]:
    """One empty panel in the place of figures: it says that no cell ended well, or else ``text``."""
    figure, axes = canvas(1, 1, [])
    axes[0, 0].set(xticks=[], yticks=[])
    failed = bool((frame["status"] != "ok").all())
    note(axes[0, 0], "no cell ended well" if failed else text, empty=True)
    return [figure]


def note(axes: Axes, text: str, empty: bool) -> None:
    """A remark on the panel: in its middle where there are no data, else above it."""
    if empty:
        axes.text(
            0.5, 0.45, text, transform=axes.transAxes, ha="center", va="center", fontsize=6.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
    else:
        axes.annotate(
            text, (0, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points", fontsize=6,
            color="#555555", ha="left", va="bottom",
        )  # fmt: skip


def title(axes: Axes, text: str, width: int, **options: Any) -> None:
    """A title wrapped to ``width`` characters, above the remark where the panel has one."""
    remarked = any(isinstance(t, Annotation) and t.xyann == (0, 2) for t in axes.texts)
    axes.set_title(textwrap.fill(text, width), pad=11 if remarked else 4, **options)


def legend(figure: Figure, looks: dict[str, Style], failed: bool, lines: bool = True) -> None:
    """One legend for the figure, below the panels."""
    handles = [
        Line2D([], [], label=name, **look.options(**({} if lines else {"linestyle": "None"})))
        for name, look in looks.items()
    ]
    if failed:
        handles.append(Line2D([], [], label=FAILED, **CROSS))
    if not handles:
        return
    names = [str(h.get_label()) for h in handles]
    columns = legend_columns(names, figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
