"""How a cost grows along one axis, all else at the base point: the axes, their curves, fitted exponents."""

import re
import textwrap
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
    "time.steady_s", "time of one\nmeta-gradient", "time", "seconds",
    low="time.steady_s_low", high="time.steady_s_high", words="time of one meta-gradient of all tasks",
)  # fmt: skip
COSTS = (STEADY, RESIDENT)
TWO = "†"  # after an exponent that two points decide
_NETWORK = "problem.network.hidden"  # what ``parameters`` stands for


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell with columns ``parameters``, ``iterations`` (of the linear solve), ``line``, `STEADY`.

    A line is a method with its engine and whatever else is swept, but for the number of its iterations. The
    steady time is the ratio to the first-order MAML beside the method, times that reference's median over all
    cells that have the same one: cells are minutes apart, and a machine's speed changes meanwhile.
    """
    found = table.cells(frame).copy()
    found["iterations"] = peers.iterations(found)
    numbers = [f" {n:g}" if pd.notna(n) else "" for n in found["iterations"]]
    lines = [
        re.sub(rf"(, iterations)?{number}(?=,|$)", "", str(name), count=1) if number else str(name)
        for name, number in zip(found["method"], numbers, strict=True)
    ]
    found["line"] = pd.Series(lines, index=found.index, dtype="string")
    found["line"] += table.axes_phrase(found.assign(method=found["line"]), apart=("n_tasks",))
    own = ("engine", "tasks_at_once")  # of a method, not of its reference
    problem = [c for c in found.columns if c.startswith("problem.")]
    same = [*problem, *(a for a in table.axes_in(found) if a not in own), table.STEPS]
    level = found.groupby(same, dropna=False)["time.reference_median_s"].transform("median")
    for end in ("", "_low", "_high"):
        found[STEADY.column + end] = found[RATIO.column + end] * level
    found["parameters"] = found.groupby("problem")["tensor_bytes.n_params"].transform("max")
    return found


def along(found: pd.DataFrame, axis: Axis) -> pd.DataFrame:
    """The cells of `rows` that differ in ``axis`` alone: the largest such group, empty if it is a point.

    What else is swept is part of their ``line``. A method without iterations counts as having the usual
    number of them, but is not on that axis.
    """
    problem = [c for c in found.columns if c.startswith("problem.") and c != _NETWORK]
    others = [*problem, *(a.column for a in AXES if a is not axis)]
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


def fitted(curve: pd.Series, least: float) -> pd.Series:
    """The points that an exponent is fitted to: positive, from x = ``least`` on."""
    return curve[(curve.index.to_numpy(dtype=float) >= least) & (curve > 0).to_numpy()]


def exponent(curve: pd.Series, least: float) -> float:
    """Slope of log y over log x by least squares, from x = ``least`` on; NaN without two positive values."""
    some = fitted(curve, least)
    if len(some) < 2:
        return float("nan")
    slope, _ = np.polyfit(np.log(some.index.to_numpy(dtype=float)), np.log(some.to_numpy(dtype=float)), 1)
    return float(slope)


class Fit(NamedTuple):
    """An exponent (NaN where there is none) and the number of points that it is fitted to."""

    slope: float
    points: int

    @property
    def text(self) -> str:
        """Two decimals, `TWO` where the line is through two points only; "" where there is none."""
        return "" if np.isnan(self.slope) else f"{round(self.slope, 2) + 0.0:.2f}{TWO * (self.points == 2)}"


def exponents(frame: pd.DataFrame, metric: Metric) -> dict[Axis, dict[str, Fit]]:
    """Axis -> line -> fit of ``metric``, for every line that has a cell on the axis."""
    found: dict[Axis, dict[str, Fit]] = {}
    for axis, here in axes(rows(frame)).items():
        least, drawn = upper(here, axis), curves(here, axis, metric)
        found[axis] = {
            line: Fit(exponent(drawn[line]["median"], least), len(fitted(drawn[line]["median"], least)))
            if line in drawn
            else Fit(float("nan"), 0)
            for line in style.ordered(here["line"])
        }
    return found


def described(frame: pd.DataFrame) -> str:
    """Every fitted exponent, and over which part of its axis it is fitted."""
    swept = axes(rows(frame))
    parts = ", ".join(f"{a.symbol} from {upper(here, a):,.0f} on" for a, here in swept.items())
    lines = [f"Exponents p of y ~ x^p, by least squares of log y on log x over the upper half: {parts}."]
    for metric in COSTS:
        for axis, fits in exponents(frame, metric).items():
            if listed := "; ".join(f"{line} {fit.text}" for line, fit in fits.items() if fit.text):
                lines.append(f"{metric.title.replace(chr(10), ' ')} against {axis.symbol}: {listed}.")
    return " ".join([*lines, *footnotes(frame)]) if len(lines) > 1 else ""


def exponent_table(frame: pd.DataFrame) -> str:
    """Markdown: a line for each method, a column for each axis of time and of memory; then `footnotes`."""
    least = {axis: upper(here, axis) for axis, here in axes(rows(frame)).items()}
    columns: dict[str, dict[str, Fit]] = {}
    for metric, word in zip(COSTS, ("time", "memory"), strict=True):
        for axis, fits in exponents(frame, metric).items():
            if any(fit.text for fit in fits.values()):
                columns[f"{word}, {axis.symbol} >= {least[axis]:,.0f}"] = fits
    lines = [f"| exponent of | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for line in style.ordered({line for fits in columns.values() for line in fits}):
        entries = (fits[line].text or "none" if line in fits else "" for fits in columns.values())
        lines.append(f"| {line} | {' | '.join(entries)} |")
    return "\n".join(lines + [""] * bool(notes := footnotes(frame)) + [textwrap.fill(" ".join(notes), 110)])


def footnotes(frame: pd.DataFrame) -> list[str]:
    """What marks, gaps and missing exponents mean, from the records; a sentence for each."""
    found = rows(frame)
    fits = [
        fit for metric in COSTS for by_line in exponents(frame, metric).values() for fit in by_line.values()
    ]
    notes = []
    if any(fit.text.endswith(TWO) for fit in fits):
        notes.append(f"{TWO}: through two points only, so that nothing says how straight the line is.")
    if any(not fit.text for fit in fits):
        notes.append("None: fewer than two cells there ended well with a value above zero.")
    for axis, here in axes(found).items():
        bad = here[(here["status"] != "ok") & (here[axis.column].astype(float) >= upper(here, axis))]
        places = bad.groupby("line")[axis.column].transform(_listed)
        for (status, values), some in bad.groupby(["status", places]):
            lines, why = " and ".join(style.ordered(some["line"])), str(some["reason"].iloc[0]).split("\n")[0]
            notes.append(f"{lines} at {values} {axis.symbol}: {status}, for example {why}.")
    return notes


def _listed(values: pd.Series) -> str:
    return " and ".join(f"{v:,.0f}" for v in sorted(values.unique()))
