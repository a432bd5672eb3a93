"""Libraries side by side: time as a multiple of jitted JAX's, memory and error, a lane for each library."""

from collections.abc import Collection
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import answers, grid, labels, panels, peers, scales, stats, table
from analysis.metrics import ERRORS, RATIO, RELATIVE, RESIDENT, Metric, listed
from analysis.style import Style

LANE = 0.105  # inches of height
LOOKS = {  # colours by Okabe and Ito; no two libraries share a marker
    "metabench, compiled": Style("#0072B2", "D"),
    "metabench, compiled (ran eager)": Style("#0072B2", "h", filled=False, half=True),
    "metabench, eager": Style("#56B4E9", "o", filled=False),
    "JAX": Style("#000000", "s"),
    "jaxopt": Style("#777777", "P"),
    "TorchOpt": Style("#E69F00", "^"),
    "higher": Style("#CC79A7", "v"),
    "hypergrad": Style("#009E73", "X"),
    "betty": Style("#8C510A", "<"),
    "learn2learn": Style("#882255", ">"),
    "C++": Style("#D55E00", "*"),
}


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    found, metrics = _measured(frame)
    text = (
        "Each library's meta-gradient, rows by what is computed, in each row a lane for each library: "
        f"{listed(metrics)}."
    )
    approximate = [labels.pretty(name) for name in ("fomaml", "imaml") if _has(found, name)]
    if ERRORS["maml"] in metrics and approximate:
        verb = "approximates" if len(approximate) == 1 else "approximate"
        text += f" {' and '.join(approximate)} {verb} exact MAML."
    if "jax" in drawn:
        text += (
            " The vertical line is JAX. Times of two libraries are compared over first-order MAML in eager "
            "mode, next to which each is timed; an interval is the method's own, JAX's is at the line."
        )
        alone = found[RATIO.column].notna() & found[peers.TO_JAX.column].isna()
        text += " What JAX does not compute has no such time." if alone.any() else ""
    return text + (" One figure for each problem." if found["problem"].nunique() > 1 else "")


def _has(found: pd.DataFrame, family: str) -> bool:
    return bool((found["method.name"].str.partition("-")[0] == family).any())


def _measured(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Metric]]:
    found = peers.rows(frame)
    time = peers.TO_JAX if found[peers.TO_JAX.column].notna().any() else RELATIVE
    return found, grid.measured_or_first(found, [time, RESIDENT, ERRORS["maml"]])


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return answers.speed(frame)


def evidence(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the sentence's numbers are read from."""
    return {"times-JAX": answers.times_jax(frame)}


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem."""
    found, metrics = _measured(frame)
    return [
        _figure(found[found["problem"] == name], str(name), metrics) for name in found["problem"].unique()
    ]


def _figure(found: pd.DataFrame, problem: str, metrics: list[Metric]) -> Figure:
    order = peers.ordered(found)
    lanes: dict[tuple[str, str], float] = {}
    bands: list[tuple[str, float, float]] = []  # a row, where it begins and ends
    for row, libraries in order.items():
        start = bands[-1][2] if bands else 0.0
        lanes |= {(row, library): start + 1 + i for i, library in enumerate(libraries)}
        bands.append((row, start, start + len(libraries) + 1))
    looks = {name: LOOKS[name] for name in peers.libraries(found)}
    failed = bool((found["status"] != "ok").any())
    entries = [*looks, *([panels.FAILED] if failed else [])]
    figure, axes = panels.canvas(1, len(metrics), entries, row=bands[-1][2] * LANE)
    for j, metric in enumerate(metrics):
        panel = axes[0, j]
        _lanes(panel, found, metric, lanes, 24 if len(metrics) > 1 else 40)
        panel.set_ylim(bands[-1][2], 0)
        panel.set_yticks([(start + end) / 2 for _, start, end in bands], [row for row, *_ in bands])
        panel.tick_params(axis="y", length=0, labelleft=j == 0)
        panel.grid(visible=False, axis="y")
        for _, start, end in bands[::2]:
            panel.axhspan(start, end, color="#f3f3f3", linewidth=0, zorder=0)
        panel.set_xlabel(metric.title)
    figure.align_xlabels()
    figure.suptitle(problem, fontsize=8)
    panels.legend(figure, looks, failed, lines=False)
    return figure


def _lanes(
    axes: Axes, found: pd.DataFrame, metric: Metric, lanes: dict[tuple[str, str], float], letters: int
) -> None:
    points = stats.summarise(found, ["row", "library"], metric)
    values = points[["median", "low", "high"]].to_numpy(dtype=float).ravel()
    most = 3 if metric.unit == "bytes" else 4  # ticks, whose labels stand side by side
    scale = scales.log_axis(axes, "x", values[values == values], metric.unit, metric.zero, most)
    if metric is peers.TO_JAX and len(points):
        axes.axvline(1, color="black", linewidth=0.8, zorder=0.6, label="_jax")
    for _, point in points.iterrows():
        look, y = LOOKS[point["library"]], lanes[point["row"], point["library"]]
        middle, low, high = scale.place([point["median"], point["low"], point["high"]])
        axes.hlines(y, low, high, color=look.color, linewidth=0.9)
        axes.plot([middle], [y], **look.options(linestyle="None", markersize=4), clip_on=False)
    failures = table.failures(found, ["row", "library"])
    for (row, library), n in failures.groupby(["row", "library"])["n"].sum().items():  # type: ignore[misc]
        look, y = LOOKS[library], lanes[row, library]
        panels.cross(axes, (1.02, y), axes.get_yaxis_transform(), int(n), look.color)
        small: dict[str, Any] = look.options(**panels.SMALL)
        axes.plot([0.985], [y], **small, transform=axes.get_yaxis_transform(), clip_on=False)
    if text := grid.remark(found, metric, letters + 8):
        panels.note(axes, text, empty=points.empty)
