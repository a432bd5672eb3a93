"""iMAML's error against inner steps, iterations of CG and lambda; and the accuracy that more steps buy."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis import grid, inner_steps, panels, scales, stats, style, table, units
from analysis import inner_steps_told as told
from analysis.inner_steps import CG, DATA, STRENGTH
from analysis.metrics import ERRORS, TESTS, Metric
from analysis.style import Style
from analysis.verdict import Verdict

TABLE = "Median errors with 95% bootstrap intervals; mean accuracies with Student's over seeds."


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    here, trained = inner_steps.measured(frame), inner_steps.trained(frame)
    parts = [
        f"{metric.words} of iMAML's meta-gradient against the number of inner steps K, a curve for each "
        "number of iterations of CG; rows are lambdas from the smallest, columns problems"
        for metric in _metrics(here)
    ]
    if len(trained):
        parts.append(
            "accuracy after adaptation on held-out tasks against the K that meta-parameters are trained and "
            "tested with, a curve for each method"
        )
    return "; ".join(f"Figure {i + 1}: {text}" for i, text in enumerate(parts)) + "."


def words(frame: pd.DataFrame) -> dict[str, str]:
    """The statistics of both kinds of cells."""
    text = (
        "Errors: median over tasks with 95% bootstrap interval over seeds, then tasks, whether their cell "
        "converged or not. Accuracies: mean over seeds of the mean over the held-out tasks, with Student's "
        "95% interval over seeds."
    )
    failed = " Cells that failed are in no median, but for tasks that have an error."
    return {"Statistic": text + (failed if (frame["status"] != "ok").any() else "")}


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer in words."""
    return [("", told.verdicts(inner_steps.measured(frame), inner_steps.trained(frame)))]


def tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each problem and lambda: rows are K, columns errors by CG; one of each that was trained."""
    here, trained = inner_steps.measured(frame), inner_steps.trained(frame)
    made = []
    for metric in _metrics(here):
        for data in inner_steps.ordered(here[DATA]):
            for strength, group in here[here[DATA] == data].groupby(STRENGTH, sort=True):
                name = f"{data}, lambda {strength:g}: {metric.short}"
                made.append(_table(name, group, metric))
    for data in inner_steps.ordered(trained[DATA]):
        for strength, group in trained[trained[DATA] == data].groupby(STRENGTH, sort=True):
            made.append(_accuracies(f"{data}, lambda {strength:g}: test accuracy", group))
    return made


def draw(frame: pd.DataFrame) -> list[Figure]:
    """A figure for each reference, and one of trainings."""
    if (frame["status"] != "ok").all():
        return panels.nothing(frame, "")
    here, trained = inner_steps.measured(frame), inner_steps.trained(frame)
    figures = [_errors(here, metric) for metric in _metrics(here)]
    if len(trained):
        figures.append(_trained(trained))
    return figures or panels.nothing(frame, "no error of iMAML with CG")


def _metrics(here: pd.DataFrame) -> list[Metric]:
    return [ERRORS[name] for name in ("implicit", "maml") if here[ERRORS[name].column].notna().any()]


def _looks(here: pd.DataFrame) -> dict[int, Style]:
    return {int(n): style.of(f"iMAML, CG {n}") for n in sorted(here[CG].unique())}


def _errors(here: pd.DataFrame, metric: Metric) -> Figure:
    data_sets, looks = inner_steps.ordered(here[DATA]), _looks(here)
    rows = max(here.groupby(DATA)[STRENGTH].nunique())
    named = {f"iMAML, CG {n}": look for n, look in looks.items()}
    figure, axes = panels.canvas(rows, max(len(data_sets), 2), list(named), row=1.3)
    for j, data in enumerate(data_sets):
        mine = here[here[DATA] == data]
        strengths = sorted(mine[STRENGTH].unique())
        for i in range(rows):
            if i >= len(strengths):
                axes[i, j].remove()
                continue
            _panel(axes[i, j], mine[mine[STRENGTH] == strengths[i]], metric, looks)
            panels.note(axes[i, j], f"lambda = {strengths[i]:g}", empty=False)
            if i == 0:
                panels.title(axes[i, j], data, 34)
            if i == len(strengths) - 1:
                axes[i, j].set_xlabel("inner steps K")
    for panel in axes[:, len(data_sets) :].ravel():
        panel.remove()
    for i in range(rows):
        axes[i, 0].set_ylabel(metric.title)
    panels.legend(figure, named, failed=False)
    return figure


def _panel(axes: Axes, here: pd.DataFrame, metric: Metric, looks: dict[int, Style]) -> None:
    curves = {n: inner_steps.points(here[here[CG] == n], metric.column) for n in looks}
    curves = {n: found for n, found in curves.items() if len(found)}
    ends = [found[["median", "low", "high"]].to_numpy(float).ravel() for found in curves.values()]
    scale = scales.log_axis(
        axes, "y", np.concatenate(ends) if ends else [], metric.unit, metric.zero, ticks=4
    )
    scales.step_axis(axes, here[table.STEPS].astype(float).tolist(), 1.7)
    grid.draw_curves(
        axes,
        {f"iMAML, CG {n}": found for n, found in curves.items()},
        {f"iMAML, CG {n}": look for n, look in looks.items()},
        scale,
    )
    if not curves:
        panels.note(axes, "no reference", empty=True)


def _trained(trained: pd.DataFrame) -> Figure:
    settings = [
        (f"{data}, lambda {strength:g}", group)
        for data in inner_steps.ordered(trained[DATA])
        for strength, group in trained[trained[DATA] == data].groupby(STRENGTH, sort=True)
    ]
    looks = style.styles(trained["method"])
    figure, axes = panels.canvas(1, len(settings), list(looks))
    for panel, (name, group) in zip(axes[0], settings, strict=True):
        steps = group[table.STEPS].astype(float).tolist()
        scales.step_axis(panel, steps, figure.get_figwidth() / len(settings) - 0.6)
        panels.mark(panel.patch, "linear")
        for i, (method, look) in enumerate(looks.items()):
            mine = inner_steps.by_steps(group[group["method"] == method])
            aside = 1.02 ** (i - (len(looks) - 1) / 2)  # so that intervals stand side by side
            x = mine.columns.to_numpy(dtype=float) * aside
            means = [stats.student(mine[k].to_numpy()) for k in mine.columns]
            panel.plot(x, [m.mean for m in means], **look.options(), clip_on=False)
            panel.vlines(
                x, [m.low for m in means], [m.high for m in means], color=look.color, linewidth=0.7, alpha=0.7
            )
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panels.title(panel, name, 40)
        panel.set_xlabel("inner steps K")
    axes[0, 0].set_ylabel(TESTS["accuracy"].title)
    panels.legend(figure, looks, failed=False)
    return figure


def _table(name: str, here: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    looks = _looks(here)
    curves = {n: inner_steps.points(here[here[CG] == n], metric.column) for n in looks}
    steps = sorted({int(k) for found in curves.values() for k in found.index})
    body = [
        {
            "method": f"K = {k}", "color": "#000000", "axes": [],
            "values": [_cell(curves[n], k, metric) for n in looks], "failed": "",
            "n": f"{max(_n(c, k) for c in curves.values()):,} tasks",
        }
        for k in steps
    ]  # fmt: skip
    return {"problem": name, "first": "", "heads": [*(f"CG {n}" for n in looks), "n", ""], "rows": body}


def _cell(found: pd.DataFrame, k: int, metric: Metric) -> tuple[str, str]:
    if k not in found.index:
        return "", ""
    return _split(metric.describe(*found.loc[[k], ["median", "low", "high"]].to_numpy(float)[0].tolist()))


def _n(found: pd.DataFrame, k: int) -> int:
    return int(found["n"].reindex([k]).fillna(0).iloc[0])


def _accuracies(name: str, here: pd.DataFrame) -> dict[str, Any]:
    looks = style.styles(here["method"])
    by_method = {method: inner_steps.by_steps(here[here["method"] == method]) for method in looks}
    steps = sorted({int(k) for found in by_method.values() for k in found.columns})
    body = []
    for method, found in by_method.items():
        means = {int(k): stats.student(found[k].to_numpy()) for k in found.columns}
        values = [
            _split(TESTS["accuracy"].describe(*means[k][:3])) if k in means else ("", "") for k in steps
        ]
        n = units.many(len(found), "seed")
        row = {
            "method": method,
            "color": looks[method].color,
            "axes": [],
            "values": values,
            "failed": "",
            "n": n,
        }
        body.append(row)
    return {"problem": name, "heads": [*(f"K = {k}" for k in steps), "n", ""], "rows": body}


def _split(text: str) -> tuple[str, str]:
    middle, _, interval = text.partition(" [")
    return middle, f"[{interval}" if interval else ""
