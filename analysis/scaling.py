"""How a cost grows along one axis, all else at the base point: the axes, their curves, fitted exponents."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import peers, stats, style, table
from analysis.metrics import RATIO, RESIDENT, Metric


class Axis(NamedTuple):
    """What is varied: a column of `rows`, its title, and its symbol in a sentence."""

    column: str
    title: str
    symbol: str


AXES = (
    Axis(table.STEPS, "inner steps K", "K"),
    Axis("n_tasks", "tasks", "tasks"),
    Axis("parameters", "parameters", "parameters"),
    Axis("iterations", "iterations of CG", "CG iterations"),
)
STEADY = Metric(
    "time.steady_s",
    "time of one\nmeta-gradient",
    "time",
    "seconds",
    low="time.steady_s_low",
    high="time.steady_s_high",
)
COSTS = (STEADY, RESIDENT)
_NETWORK = "problem.network.hidden"  # what ``parameters`` stands for


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell with columns ``parameters``, ``iterations`` (of the linear solve), ``line``, `STEADY`.

    A line is a method with its engine, whatever the number of its iterations. The steady time is the ratio to
    the first-order MAML beside the method, times that reference's median over all cells that have the same
    one: cells are minutes apart, and a machine's speed changes meanwhile.
    """
    found = table.cells(table.with_axes(frame, apart=("n_tasks",))).copy()
    found["iterations"] = peers.iterations(found)
    own = ("engine", "tasks_at_once")  # of a method, not of its reference
    problem = [c for c in found.columns if c.startswith("problem.")]
    same = [*problem, *(a for a in table.AXES if a not in own), table.STEPS]
    level = found.groupby(same, dropna=False)["time.reference_median_s"].transform("median")
    for end in ("", "_low", "_high"):
        found[STEADY.column + end] = found[RATIO.column + end] * level
    found["parameters"] = found.groupby("problem")["tensor_bytes.n_params"].transform("max")
    numbers = [f" {n:g}" if pd.notna(n) else "" for n in found["iterations"]]
    found["line"] = [
        re.sub(rf"(, iterations)?{number}(?=,|$)", "", str(name), count=1) if number else str(name)
        for name, number in zip(found["method"], numbers, strict=True)
    ]
    return found


def along(found: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """The cells of `rows` that differ in ``axis`` alone: the largest such group, empty if it is a point.

    A method without iterations counts as having the usual number of them, but is not on that axis.
    """
    problem = [c for c in found.columns if c.startswith("problem.") and c != _NETWORK]
    settings = [*problem, *(a for a in table.AXES if a not in ("engine", "n_tasks"))]
    others = [*settings, *(a.column for a in AXES if a is not axis)]
    usual = found["iterations"].mode().reindex([0]).iloc[0]
    filled = found.assign(iterations=found["iterations"].fillna(usual))
    filled = filled[found[axis.column].notna()]
    groups = filled.groupby(others, dropna=False, sort=False)[axis.column]
    code = groups.ngroup()
    size = (groups.transform("nunique") * (len(found) + 1) + groups.transform("size")).to_numpy(dtype=float)
    if not len(filled) or size.max() < 2 * (len(found) + 1):
        return found[:0]
    return found.loc[filled.index[code == code.iloc[int(size.argmax())]]]


def axes(found: pd.DataFrame) -> dict[Axis, pd.DataFrame]:
    """The axes that are swept, with their cells."""
    return {axis: here for axis in AXES if len(here := along(found, axis))}


def curves(here: pd.DataFrame, axis: Axis, metric: Metric) -> dict[str, pd.DataFrame]:
    """Line -> median, low and high by the value on the axis."""
    points = stats.summarise(here, ["line", axis.column], metric)
    names = style.ordered(points["line"])
    return {
        n: points[points["line"] == n].set_index(axis.column).sort_index()[["median", "low", "high"]]
        for n in names
    }


def upper(here: pd.DataFrame, axis: Axis) -> float:
    """The least value in the upper half of the axis on its log scale."""
    values = np.sort(here[axis.column].unique().astype(float))
    return float(values[values >= np.sqrt(values[0] * values[-1])][0])


def exponent(curve: pd.Series, least: float) -> float:
    """Slope of log y over log x by least squares, from x = ``least`` on; NaN without two positive values."""
    some = curve[(curve.index.to_numpy(dtype=float) >= least) & (curve > 0).to_numpy()]
    if len(some) < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(some.index.to_numpy(dtype=float)), np.log(some.to_numpy(dtype=float)), 1)
    return float(slope)


def exponents(frame: pd.DataFrame, metric: Metric) -> dict[Axis, dict[str, float]]:
    """Axis -> line -> exponent of ``metric``, where there is one."""
    found: dict[Axis, dict[str, float]] = {}
    for axis, here in axes(rows(frame)).items():
        least = upper(here, axis)
        fitted = {line: exponent(c["median"], least) for line, c in curves(here, axis, metric).items()}
        found[axis] = {line: slope for line, slope in fitted.items() if not np.isnan(slope)}
    return found


def _texts(fitted: dict[str, float]) -> list[tuple[str, str]]:
    return [(line, f"{round(slope, 2) + 0.0:.2f}") for line, slope in fitted.items()]


def described(frame: pd.DataFrame) -> str:
    """Every fitted exponent, and over which part of its axis it is fitted."""
    swept = axes(rows(frame))
    parts = ", ".join(f"{a.symbol} from {upper(here, a):,.0f} on" for a, here in swept.items())
    lines = [f"Exponents p of y ~ x^p, by least squares of log y on log x over the upper half: {parts}."]
    for metric in COSTS:
        for axis, fitted in exponents(frame, metric).items():
            if fitted:
                listed = "; ".join(f"{line} {slope}" for line, slope in _texts(fitted))
                lines.append(f"{metric.title.replace(chr(10), ' ')} against {axis.symbol}: {listed}.")
    return " ".join(lines) if len(lines) > 1 else ""


def exponent_table(frame: pd.DataFrame) -> str:
    """Markdown: a line for each method, a column for each axis of time, one for memory in K."""
    time, memory = (exponents(frame, metric) for metric in COSTS)
    least = {axis: upper(here, axis) for axis, here in axes(rows(frame)).items()}
    columns = {f"time, {axis.symbol} >= {x:,.0f}": time[axis] for axis, x in least.items()}
    in_steps = [fitted for axis, fitted in memory.items() if axis.column == table.STEPS]
    if in_steps:
        columns["memory, K"] = in_steps[0]
    lines = [f"| exponent of | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for line in style.ordered({line for fitted in columns.values() for line in fitted}):
        slopes = (dict(_texts(fitted)).get(line, "") for fitted in columns.values())
        lines.append(f"| {line} | {' | '.join(slopes)} |")
    return "\n".join(lines)
