"""Log axes with ticks that read as numbers with units, and with a floor where zero is shown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from analysis import units
from analysis.metrics import Metric, Unit

TINY = 1e-17  # nothing is told apart below: less than the rounding of any float64 result
FAR = 1e4  # a gap between methods that a log axis need not show in full


@dataclass(frozen=True)
class Scale:
    """A log axis: values up to ``zero`` are drawn at ``floor`` (None where there are none)."""

    zero: float
    floor: float | None

    def place(self, values: Iterable[float]) -> np.ndarray:
        """Where values are drawn: NaN stays NaN, infinity goes."""
        placed = np.asarray(list(values), dtype=float)
        if self.floor is not None:
            placed = np.where(placed <= self.zero, self.floor, placed)
        return np.where(np.isfinite(placed) & (placed > 0), placed, np.nan)


def log_axis(
    axes: Axes,
    which: Literal["x", "y"],
    values: Iterable[float],
    unit: Unit,
    zero: float = 0.0,
    ticks: int = 6,
) -> Scale:
    """Make an axis logarithmic over ``values``, with ticks in ``unit``; zeros get a labelled floor.

    Ticks are at values only: with nothing but zeros the floor is the only one, with no value there is none.
    """
    everything = np.asarray(list(values), dtype=float)
    finite = everything[np.isfinite(everything)]
    positive = finite[finite > zero]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 1.0)
    floor = None
    if (finite <= zero).any():
        floor = low / max(3.0, (high / low) ** 0.12)
    pad = max((high / (floor or low)) ** 0.06, 1.15)
    known = len(positive) > 0
    major, minor = log_ticks(low / pad ** (floor is None), high * pad, unit, ticks) if known else ([], [])
    names = [tick_name(v, unit) for v in major]
    if floor is not None:
        major, names = [floor, *major], [floor_name(zero), *names]
    axis, limits = (axes.xaxis if which == "x" else axes.yaxis), ((floor or low) / pad, high * pad)
    if which == "x":
        axes.set(xscale="log", xlim=limits)
    else:
        axes.set(yscale="log", ylim=limits)
    if floor is not None:
        mark = axes.axvline if which == "x" else axes.axhline
        mark(floor, color="#888888", linewidth=0.6, linestyle=(0, (1, 2)), zorder=0.5, label="_floor")
    axis.set_major_locator(FixedLocator(major))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _nearest(value, major, names)))
    axis.set_minor_locator(FixedLocator(minor))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    return Scale(zero, floor)


def for_methods(
    axes: Axes, which: Literal["x", "y"], points: pd.DataFrame, metric: Metric, ticks: int = 6, end: str = ""
) -> Scale:
    """The log axis of a measure with ``points`` of methods: columns method and median, low, high (+ ``end``).

    Methods whose errors lie decades below all others' are drawn at a floor, so that these can be told apart.
    """
    values = points[[f"{k}{end}" for k in ("median", "low", "high")]].to_numpy(dtype=float)
    zero = metric.zero
    if metric.unit == "error":
        by_method = [values[(points["method"] == name).to_numpy()] for name in points["method"].unique()]
        zero = max(zero, far_below(by_method))
    return log_axis(axes, which, values[~np.isnan(values)], metric.unit, zero, ticks)


def far_below(methods: list[np.ndarray]) -> float:
    """A power of ten above the lowest methods, if all values of the others are `FAR` times larger; else 0."""
    spans = sorted((float(np.nanmin(v)), float(np.nanmax(v))) for v in methods if np.isfinite(v).any())
    top = 0.0
    for (_, high), (low, _) in pairwise(spans):
        top = max(top, high)
        if 0 < top * FAR <= low:
            return 10.0 ** math.ceil(math.log10(top))
    return 0.0


def step_axis(axes: Axes, steps: Sequence[float], inches: float) -> None:
    """A log axis of inner steps with the steps used as ticks, as many as ``inches`` hold."""
    used = sorted(set(steps))
    if not used:
        axes.set_xticks([])
        return
    span = math.log(used[-1] / used[0]) or 1.0
    axes.set_xscale("log")
    pad = max((used[-1] / used[0]) ** 0.05, 1.2)
    axes.set_xlim(used[0] / pad, used[-1] * pad)
    kept = [used[-1]]  # from the last one down, so that the ends of the range are labelled
    for step in [used[0], *reversed(used[1:-1])]:
        if all(
            abs(math.log(step / other)) / span * inches > 0.085 * (len(f"{step:g}") + 1.2) for other in kept
        ):
            kept.append(step)
    axes.xaxis.set_major_locator(FixedLocator(sorted(kept)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(FixedLocator(used))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def log_ticks(low: float, high: float, unit: Unit, most: int = 6) -> tuple[list[float], list[float]]:
    """Major and minor ticks from ``low`` to ``high``: round numbers of the unit, at most ``most`` major."""
    if unit == "bytes":
        candidates: list[list[float]] = [_powers(2.0, k, low, high) for k in (1, 2, 5, 10, 20)]
        minor = candidates[0]
    else:
        decades = [_powers(10.0, k, low, high) for k in (1, 2, 3, 4, 5, 6, 8, 10)]
        fine = [_multiples(m, low, high) for m in ((1, 2, 5), (1, 3))]
        candidates, minor = [*fine, *decades], decades[0]
    for major in candidates:
        if 2 <= len(major) <= most:
            return major, minor
    fewest = min((c for c in candidates if len(c) >= 2), key=len, default=[])
    if not fewest:  # a range without two round numbers
        one = 1024.0 ** math.floor(math.log(low, 1024)) if unit == "bytes" else 1.0
        round_ones = (one * float(v) for v in MaxNLocator(3).tick_values(low / one, high / one))
        fewest = [v for v in round_ones if low <= v <= high]
    return fewest[:: math.ceil(len(fewest) / most)] or [math.sqrt(low * high)], minor


def tick_name(value: float, unit: Unit) -> str:
    """A tick's label with its unit."""
    if unit == "seconds":
        return units.seconds(value, 1 if _round(value) else 2)
    if unit == "bytes":
        return units.nbytes(value, 3).replace(".0 ", " ").replace(".00 ", " ")
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) < 1e-9 and (exponent < -1.5 or exponent > 3.5):
        return f"$10^{{{round(exponent)}}}$"
    return f"{value:g}" if 1e-3 < value < 1e5 else units.digits(value, 2)


def floor_name(zero: float) -> str:
    """The label of the floor: what lies there."""
    if zero == 0:
        return "0"
    power = f"$10^{{{round(math.log10(zero))}}}$"
    return f"0 or <{power}" if zero <= TINY else f"≤{power}"


def _round(value: float) -> bool:
    return f"{value:.3e}"[1:5] == ".000"


def _powers(base: float, stride: int, low: float, high: float) -> list[float]:
    first, last = (math.log(v, base) for v in (low, high))
    return [base**e for e in range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1) if e % stride == 0]


def _multiples(factors: tuple[float, ...], low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [v for e in decades for f in factors if low <= (v := f * 10.0**e) <= high]


def _nearest(value: float, ticks: list[float], names: list[str]) -> str:
    return names[int(np.argmin([abs(math.log(value / t)) for t in ticks]))]
