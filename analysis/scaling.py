"""How a cost grows along one axis, all else at the base point: the axes, their curves, fitted exponents."""

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import peers, stats, style, table
from analysis.metrics import RESIDENT, SECONDS, Metric


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
COSTS = (SECONDS, RESIDENT)
_NETWORK = "problem.network.hidden"  # what ``parameters`` stands for


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell with columns ``parameters``, ``iterations`` (of the linear solve) and ``line``.

    A line is a method with its engine, whatever the number of its iterations.
    """
    found = table.cells(table.with_axes(frame, apart=("n_tasks",))).copy()
    found["iterations"] = peers.iterations(found)
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


def sentence(frame: pd.DataFrame) -> str:
    """The exponents of time, and those of memory in the inner steps, for the README."""
    time, memory = (exponents(frame, metric) for metric in COSTS)
    parts = []
    for axis, fitted in time.items():
        listed = ", ".join(f"{slope} ({line})" for line, slope in _texts(fitted))
        parts.append(f"with {axis.symbol} {listed}")
    least = ", ".join(f"{a.symbol} >= {upper(here, a):,.0f}" for a, here in axes(rows(frame)).items())
    text = f"On the upper half of each axis ({least}) time grows as a power of it: {'; '.join(parts)}."
    steps = {a: fitted for a, fitted in memory.items() if a.column == table.STEPS and fitted}
    for fitted in steps.values():
        listed = ", ".join(f"{slope} ({line})" for line, slope in _texts(fitted))
        text += f" The growth of the resident peak grows with K as {listed}."
    return text
