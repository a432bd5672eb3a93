"""The map of settings: colour and letter say who is nearer to the implicit gradient, by how much and why."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis import atlas, panels, style, units
from analysis.atlas import BOTH_LOST, CG, IMAML_LOST, MAML_LOST, RATE
from analysis.labels import pretty
from analysis.table import STEPS

COLORS = mpl.colormaps["PuOr"]
MOST = 6.0  # doublings at which the colour is full
ROW = 0.15  # inches of a row of cells
HATCH = "////"
EQUAL, UNKNOWN = "=", "·"


def families(found: pd.DataFrame) -> list[str]:
    """The names of problems of which some setting has a winner or none, simplest first."""
    there = found.loc[found["winner"].notna(), "problem.name"].dropna().unique()
    return sorted(map(str, there), key=lambda name: style.problem_rank(pretty(name)))


def draw(found: pd.DataFrame) -> Figure:
    """The map of one family: columns are problems, rows inner steps from the smallest, K across, CG up."""
    found = found[found["winner"].notna().groupby(found["problem"]).transform("any")]
    problems = sorted(found["problem"].unique(), key=style.problem_rank)
    rates = {name: sorted(found.loc[found["problem"] == name, RATE].unique()) for name in problems}
    rows, cells = max(map(len, rates.values())), found[CG].nunique()
    legend = _legend(found)
    labels = [str(handle.get_label()) for handle in legend]
    row = ROW * cells + 0.34
    figure, axes = panels.canvas(rows, len(problems), labels, row, 0.3)
    figure.set_size_inches(max(figure.get_figwidth(), 2.3 * len(problems)), figure.get_figheight() + 0.4)
    for j, name in enumerate(problems):
        for i in range(rows):
            if i >= len(rates[name]):
                axes[i, j].set_axis_off()
                continue
            here = found[(found["problem"] == name) & (found[RATE] == rates[name][i])]
            _panel(axes[i, j], here)
            axes[i, j].tick_params(labelleft=j == 0, labelbottom=i == rows - 1)
            panels.note(axes[i, j], f"inner step {units.digits(rates[name][i])}", empty=False)
            if i == rows - 1:
                axes[i, j].set_xlabel("inner steps K")
            if j == 0:
                axes[i, j].set_ylabel("CG")
        panels.title(axes[0, j], name, 34)
    _colours(figure, axes)
    figure.legend(
        handles=legend, loc="outside lower center", handlelength=1.2, handletextpad=0.5,
        ncols=panels.legend_columns(labels, figure.get_figwidth(), 0.3),
    )  # fmt: skip
    return figure


def letter(setting: Mapping[Any, Any]) -> str:
    """What the cell of a setting holds."""
    if setting["winner"] is None or pd.isna(setting["winner"]):
        return UNKNOWN
    why = None if pd.isna(setting["why"]) else str(setting["why"])
    if why is None:
        return EQUAL
    if why in BOTH_LOST:
        return BOTH_LOST[why].letter
    return (IMAML_LOST if setting["winner"] == "maml" else MAML_LOST)[why].letter


def _panel(axes: Axes, here: pd.DataFrame) -> None:
    steps, iterations = sorted(here[STEPS].unique()), sorted(here[CG].unique())
    for row in here.to_dict("records"):
        x, y = steps.index(row[STEPS]), iterations.index(row[CG])
        known, failing = pd.notna(row["winner"]), not min(row["maml"], row["imaml"]) <= atlas.SUCCESS
        color = COLORS(0.5 + 0.5 * np.clip(row["ratio"] / MOST, -1, 1)) if known else "#eeeeee"
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="white", linewidth=0.4))
        if known and failing:
            look: dict[str, Any] = {"fill": False, "hatch": HATCH, "edgecolor": "#00000050", "linewidth": 0}
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, hatch_linewidth=0.35, **look))
        dark = known and abs(row["ratio"]) > 0.62 * MOST
        axes.text(
            x, y, letter(row), ha="center", va="center_baseline", fontsize=6.5,
            fontweight="bold" if row["winner"] == "imaml" else "normal",
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set(xlim=(-0.5, len(steps) - 0.5), ylim=(-0.5, len(iterations) - 0.5))
    axes.set_xticks(range(len(steps)), [f"{k:g}" for k in steps])
    axes.set_yticks(range(len(iterations)), [f"{n:g}" for n in iterations])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colours(figure: Figure, axes: np.ndarray) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(-MOST, MOST), COLORS), ax=axes, location="top", aspect=60, shrink=0.8,
        pad=0.02,
    )  # fmt: skip
    doublings = [-6, -4, -2, 0, 2, 4, 6]
    names = [f"{2 ** abs(k)} x" if k else "equal" for k in doublings]
    bar.set_ticks(doublings, labels=names)
    bar.set_label("MAML is nearer by  <     error to the implicit gradient     >  iMAML is nearer by")
    bar.outline.set_linewidth(0.4)  # type: ignore[operator]


def _legend(found: pd.DataFrame) -> list[Any]:
    """What the letters and the hatch in ``found`` mean."""
    there = {letter(row) for row in found.to_dict("records")}
    known = found[found["winner"].notna()]
    entries = [(why.letter, f"iMAML lost: {short}") for short, why in IMAML_LOST.items()]
    entries += [(why.letter, f"MAML lost: {short}") for short, why in MAML_LOST.items()]
    entries += [(why.letter, why.words) for why in BOTH_LOST.values()]
    entries += [(EQUAL, "not told apart"), (UNKNOWN, "no implicit gradient")]
    handles: list[Any] = [_entry(mark, words) for mark, words in entries if mark in there]
    if not (known[["maml", "imaml"]].min(axis=1) <= atlas.SUCCESS).all():
        words = f"neither within {100 * atlas.SUCCESS:g} %"
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": "#00000060", "linewidth": 0.3}
        handles.append(Patch(hatch=HATCH, hatch_linewidth=0.35, label=words, **look))
    return handles


def _entry(mark: str, words: str) -> Line2D:
    weight = r"\bf" if mark.isupper() else r"\rm"
    marker = {EQUAL: "$=$", UNKNOWN: "$\\cdot$"}.get(mark, f"${weight}{{{mark}}}$")
    return Line2D(
        [], [], linestyle="None", marker=marker, color="black", markersize=5, markeredgewidth=0, label=words
    )


def lettered(reasons: Iterable[tuple[str, str]]) -> str:
    """ "c: too few iterations of CG; ..." """
    return "; ".join(f"{mark}: {words}" for mark, words in reasons)
