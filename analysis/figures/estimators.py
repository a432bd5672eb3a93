"""Error against time and against memory of many methods at once: numbered points and their Pareto front."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import answers, grid, panels, scales, stats, style, table
from analysis.metrics import ERRORS, RELATIVE, TENSOR_BYTES, Metric, listed

ROW = 2.35  # inches of height of a row of panels
HANDLE = 0.25  # inches of a marker in the legend
ROUNDS = 80  # of moving labels apart; without a number it is a second, and the clock decides where they are
TIE = 0.8  # an error above this share of another's counts as no smaller


class Look(NamedTuple):
    """How a family is drawn, and what it is called."""

    color: str
    marker: str
    shape: str
    words: str
    filled: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of a point."""
        face = self.color if self.filled else "white"
        return {"color": self.color, "marker": self.marker, "linestyle": "None", "mfc": face, "mew": 0.8}


GROUPS = {  # registered name of a method -> its family
    "maml": "exact",
    "fomaml": "first order",
    "reptile": "first order",
    "truncated-maml": "shortened",
    "one-step": "shortened",
    "binomial-maml": "shortened",
    "imaml": "implicit",
    "imaml-warm-start": "implicit",
    "shine": "implicit",
    "fo-b-maml": "differences",
    "contrastive": "differences",
    "forward-gradient": "random",
    "imaml-no-prox": "as published",
    "imaml-authors-code": "as published",
}
FAMILIES = {  # colours by Okabe and Ito
    "exact": Look("#000000", "o", "open circle", "exact MAML", filled=False),
    "shortened": Look("#D55E00", "s", "square", "shortened unrolling"),
    "first order": Look("#E69F00", "v", "triangle down", "first order"),
    "implicit": Look("#0072B2", "D", "diamond", "implicit"),
    "differences": Look("#009E73", "^", "triangle up", "differences of inner solves"),
    "random": Look("#CC79A7", "X", "cross", "random directions"),
    "as published": Look("#8C510A", "P", "plus", "published code replayed"),
    "other": Look("#777777", "h", "hexagon", "other"),
}


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    errors, costs = _metrics(frame)
    there = {family(name) for name in frame["method.name"]}
    legend = "; ".join(f"{look.shape}: {look.words}" for key, look in FAMILIES.items() if key in there)
    front = (
        " The grey line is the Pareto front, its methods in bold: nothing is cheaper and as close, where an "
        f"error counts as smaller if it is less than {TIE:g} times the other."
    )
    return (
        f"Each method's meta-gradient: {listed(errors)}, against its {listed(costs)}. One figure for each "
        f"problem. The number names the method, colour and marker its family: {legend}."
        f"{front if 'front' in drawn else ''}"
    )


def family(name: str) -> str:
    """The family of a registered method; other libraries' belong to that of their first word."""
    return GROUPS.get(name) or GROUPS.get(name.split("-")[0], "other")


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return answers.accuracy(frame)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem."""
    frame = table.with_axes(frame)
    families = {m: family(n) for m, n in zip(frame["method"], frame["method.name"], strict=True)}
    order = sorted(style.ordered(families), key=lambda name: list(FAMILIES).index(families[name]))
    numbers = {name: i + 1 for i, name in enumerate(order)}
    errors, costs = _metrics(frame)
    return [
        _figure(frame, problem, errors, costs, numbers, families) for problem in frame["problem"].unique()
    ]


def _metrics(frame: pd.DataFrame) -> tuple[list[Metric], list[Metric]]:
    errors = grid.measured_or_first(frame, [ERRORS["implicit"], ERRORS["maml"]])
    return errors, grid.measured_or_first(frame, [RELATIVE, TENSOR_BYTES])


def _figure(
    frame: pd.DataFrame,
    problem: str,
    errors: list[Metric],
    costs: list[Metric],
    numbers: dict[str, int],
    families: dict[str, str],
) -> Figure:
    here = frame[frame["problem"] == problem]
    shown = [name for name in numbers if (here["method"] == name).any()]
    entries = [f"{numbers[name]}  {name}" for name in shown]
    figure, axes = panels.canvas(len(errors), len(costs), entries, ROW, HANDLE)
    texts = []
    for i, error in enumerate(errors):
        for j, cost in enumerate(costs):
            texts.append((axes[i, j], _cloud(axes[i, j], here, error, cost, numbers, families)))
            axes[i, j].set_xlabel(cost.title.replace("\n", " "))
            empty = not texts[-1][1]
            if text := grid.remark_on_both(here, error, cost, empty):
                panels.note(axes[i, j], text, empty)
        axes[i, 0].set_ylabel(error.title)
    figure.suptitle(problem, fontsize=8)
    _legend(figure, shown, entries, families)
    figure.draw_without_rendering()  # the layout settles first: labels are placed in inches
    for panel, labels in texts:
        if labels:
            adjust_text(
                labels,
                ax=panel,
                arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.4},
                expand=(1.35, 1.5),
                ensure_inside_axes=True,
                iter_lim=ROUNDS,
            )
    return figure


def _cloud(
    axes: Axes,
    frame: pd.DataFrame,
    error: Metric,
    cost: Metric,
    numbers: dict[str, int],
    families: dict[str, str],
) -> list:
    y, x = (stats.summarise(frame, ["method"], metric) for metric in (error, cost))
    points = y.merge(x.astype({"method": y["method"].dtype}), on="method", suffixes=(".y", ".x"))
    across = scales.for_methods(axes, "x", points, cost, ticks=5, end=".x")
    up = scales.for_methods(axes, "y", points, error, ticks=7, end=".y")
    if points.empty:
        return []
    px, py = across.place(points["median.x"]), up.place(points["median.y"])
    best = front(px, py)
    (line,) = axes.step(px[best], py[best], where="post", color="#aaaaaa", linewidth=1.0, zorder=1)
    panels.mark(line, "front")
    labels = []
    for k, (name, at_x, at_y) in enumerate(zip(points["method"], px, py, strict=True)):
        look, row = FAMILIES[families[name]], points.iloc[k]
        (left, right), (low, high) = (
            across.place(row[["low.x", "high.x"]]),
            up.place(row[["low.y", "high.y"]]),
        )
        axes.vlines(at_x, low, high, color=look.color, linewidth=0.6)
        axes.hlines(at_y, left, right, color=look.color, linewidth=0.6)
        axes.plot([at_x], [at_y], **look.options, markersize=3.8, clip_on=False)
        weight = "bold" if k in best else "normal"
        number = str(numbers[name])
        labels.append(axes.text(at_x, at_y, number, fontsize=6, color=look.color, fontweight=weight))
    return labels


def front(cost: Iterable[float], error: Iterable[float]) -> list[int]:
    """Indices of the points that no other beats in both, from the cheapest on; see `TIE`."""
    cost, error = np.asarray(list(cost)), np.asarray(list(error))
    found, least = [], np.inf
    for k in np.lexsort((error, cost)):
        if error[k] < TIE * least:
            found.append(int(k))
            least = error[k]
    return found


def _legend(figure: Figure, shown: list[str], entries: list[str], families: dict[str, str]) -> None:
    looks = (FAMILIES[families[name]] for name in shown)
    handles = [Line2D([], [], **look.options, label=e) for look, e in zip(looks, entries, strict=True)]
    columns = panels.legend_columns(entries, figure.get_figwidth(), HANDLE)
    room: dict[str, Any] = {"handlelength": 1, "handletextpad": 0.2}
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **room)
