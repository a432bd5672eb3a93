"""Query loss and accuracy after adaptation against outer steps: a curve for each outer optimizer."""

import textwrap
from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import learning, panels, scales, stats, style
from analysis.metrics import TESTS
from analysis.training import KINDS, OUTER

WIDE = 10.0  # from this quotient of two means on, an axis of losses is logarithmic
TABLE = "Medians with 95% bootstrap intervals; the verdict has means over seeds with Student's intervals."
DODGE = 0.06  # of the distance of two evaluations: so that intervals of curves do not hide each other


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    found = learning.runs(frame)
    kinds = _kinds(found)
    tasks = " or ".join(f"{n:,}" for n in _tasks(found))
    on = f" on {tasks} tasks" if tasks else " on tasks"
    text = (
        f"Of each method, against the number of outer steps, a curve for each outer optimizer: mean "
        f"query {' and '.join(kinds)} after adaptation{on} that are held out (split val, the same for all). "
        "Columns: methods."
    )
    return text + (" One figure for each problem." if found["problem"].nunique() > 1 else "")


def words(frame: pd.DataFrame) -> dict[str, str]:
    """The statistic, which is not that of other figures."""
    if learning.runs(frame).empty:
        return {}
    failed = " Cells that failed are in no mean; remarks above the panels count them."
    text = (
        f"Mean over seeds with Student's {stats.LEVEL:.0%} interval over seeds; curves are a little apart, "
        "so that their intervals can be seen. One that ends at the panel's edge goes on."
    )
    axes = "Linear, but for losses whose means span more than a factor of 10: logarithmic."
    return {"Axes": axes, "Statistic": text + (failed if (frame["status"] != "ok").any() else "")}


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return learning.answer(frame)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem: rows are measures, columns methods; a row has one scale."""
    found = learning.runs(frame)
    if found.empty:
        return panels.nothing(frame, "no cell trains")
    return [_figure(found[found["problem"] == problem]) for problem in found["problem"].unique()]


def _figure(here: pd.DataFrame) -> Figure:
    methods, kinds = style.ordered(here["method"]), _kinds(here)
    looks = style.outers(here[OUTER].dropna())
    figure, axes = panels.canvas(len(kinds), len(methods), list(looks))
    for i, kind in enumerate(kinds):
        everything = [learning.curves(here[here["method"] == method], kind) for method in methods]
        drawn = [curve for curves in everything for curve in curves.values()]
        for j, (method, curves) in enumerate(zip(methods, everything, strict=True)):
            _scale(axes[i, j], kind, drawn)
            _panel(axes[i, j], curves, looks)
            if i == 0:
                if text := _failed(here[here["method"] == method]):
                    panels.note(axes[i, j], text, empty=not curves)
                panels.title(axes[i, j], method, 34)
            if i == len(kinds) - 1:
                axes[i, j].set_xlabel("outer steps")
            axes[i, j].tick_params(axis="y", labelleft=j == 0)
            if kind == "accuracy":
                axes[i, j].yaxis.set_major_formatter(PercentFormatter(1.0))
        axes[i, 0].set_ylabel(f"query {kind}\nafter adaptation")
    figure.suptitle(str(here["problem"].iloc[0]), fontsize=8)
    panels.legend(figure, looks, failed=False)
    return figure


def _scale(axes: Axes, kind: str, curves: list[pd.DataFrame]) -> None:
    """The vertical axis of a row: logarithmic where one curve would flatten all others."""
    means = np.concatenate([[], *(curve["mean"].to_numpy(dtype=float) for curve in curves)])
    if kind == "loss" and len(means) and means.min() > 0 and means.max() > WIDE * means.min():
        scales.log_axis(axes, "y", means, TESTS["loss"].unit)
    else:
        axes.set_ylim(*_limits(curves))


def _panel(axes: Axes, curves: dict[str, pd.DataFrame], looks: dict[str, style.Style]) -> None:
    for k, (outer, curve) in enumerate(curves.items()):
        steps = curve.index.to_numpy(dtype=float)
        apart = DODGE * np.diff(steps).min() if len(steps) > 1 else 0.0
        x = steps + apart * (k - (len(curves) - 1) / 2)
        look = looks[outer]
        axes.plot(x, curve["mean"], **look.options(), clip_on=False)
        axes.vlines(x, curve["low"], curve["high"], color=look.color, linewidth=0.7, alpha=0.7)


def _limits(curves: list[pd.DataFrame]) -> tuple[float, float]:
    """All means, and of the intervals as much as leaves the means three quarters of the height."""
    if not curves:
        return 0.0, 1.0
    means = np.concatenate([curve["mean"].to_numpy(dtype=float) for curve in curves])
    ends = np.concatenate([curve[end].to_numpy(dtype=float) for curve in curves for end in ("low", "high")])
    low, high = means.min(), means.max()
    room = (high - low or abs(high) or 1.0) / 6
    ends = ends[~np.isnan(ends)]
    bottom = max(low - room, min([low, *ends]) - room / 4)
    return float(bottom), float(min(high + room, max([high, *ends]) + room / 4))


def _kinds(found: pd.DataFrame) -> list[str]:
    return [kind for kind in KINDS if found[f"evaluation.{kind}"].notna().any()] or list(KINDS[:1])


def _tasks(found: pd.DataFrame) -> list[int]:
    rows = found[found["evaluation.split"] == learning.ON_THE_WAY]
    return sorted(int(n) for n in rows["evaluation.n_tasks"].dropna().unique())


def _failed(here: pd.DataFrame) -> str:
    cells = here.drop_duplicates("id")
    if (cells["status"] != "ok").all():
        return "no cell ended well"
    bad = cells[cells["status"] != "ok"].groupby(OUTER).size()
    parts = [f"{n} of {(cells[OUTER] == outer).sum()} cells of {outer}" for outer, n in bad.items()]
    return textwrap.fill(f"failed: {'; '.join(parts)}", 48) if parts else ""
