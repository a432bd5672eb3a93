"""What becomes of line searches by precision, and how the adapted parameters follow theta."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import line_search, panels, scales, stats, style, table
from analysis import line_search_sentences as sentences
from analysis.line_search import JUMP, PROMISE, SEARCHES, SOLVER, UNROLLED
from analysis.stats import Share
from analysis.style import Style
from analysis.verdict import EVERYWHERE, Item, Verdict

LOOKS = {
    "Armijo": Style("#0072B2", "s", (0, (6, 1.5))),
    "L-BFGS": Style("#D55E00", "^", (0, (2, 1))),
    "Hessian-free": Style("#5a5200", "D", (0, (6, 1, 1, 1))),
    "gradient descent": Style("#000000", "o", "-"),
}
WAYS = {"unrolled": True, "implicit": False}  # of differentiation: whether their markers are filled
ROUNDING = 1e-12  # an error up to which an axis shows none
TABLE = "Shares of tasks with 95% Wilson intervals."
HEADS = ["dtype", "searches", "lost", "tasks that lost one", "of them below an ulp", "indefinite", "jump"]


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "First figure, a column for each problem: the share of tasks that lost a line search (no step length "
        "was accepted, or G as computed did not fall after one), against the precision, bars are 95% Wilson "
        "intervals; below, for each task what its last search promised, -t grad'd, in ulps of G: below the "
        "line rounding decides. Second figure: the relative error of the meta-gradient as the derivative of "
        "the method's own map from theta to the query loss, by central differences over a distance; filled: "
        "unrolled through the search with its step lengths as constants, hollow: implicit; below, for each "
        "task, the largest jump of phi within 1 % of |theta|, to the way of phi from theta."
    )


def words(frame: pd.DataFrame) -> dict[str, str]:
    """What the caption takes from the records beyond every caption."""
    prepared = line_search.prepared(frame)
    if line_search.searched(prepared).empty and line_search.mapped(prepared).empty:
        return {}
    return {
        "Statistic": "A task counts once for each inner solver and precision. Wilson score intervals of "
        "shares, though tasks of one seed share meta-parameters; "
        f"{stats.STATISTIC[0].lower()}{stats.STATISTIC[1:]} Cells that did not converge count.",
        "Axes": "Logarithmic but for the shares.",
    }


def draw(frame: pd.DataFrame) -> list[Figure]:
    """The searches, then the map from theta."""
    frame = line_search.prepared(frame)
    searched, mapped = line_search.searched(frame), line_search.mapped(frame)
    figures: list[Figure] = []
    if len(searched):
        figures.append(_searches(searched))
    if len(mapped):
        figures.append(_map(frame[frame["problem"].isin(mapped["problem"].unique())], mapped))
    return figures or panels.nothing(frame, "no line search measured")


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """Why line search fails, over everything; then each problem."""
    frame = line_search.prepared(frame)
    searched, mapped = line_search.searched(frame), line_search.mapped(frame)
    if searched.empty and mapped.empty:
        nothing = Item("No verdict", "", "No line search was measured.")
        return [("", [Verdict(EVERYWHERE, "", [nothing])])]
    items = [Item("Why it fails", "", sentences.answer(searched, mapped))]
    items += [
        Item(f"{name}, by precision", "", sentences.by_dtype(mine))
        for name, mine in sentences.by(searched, SOLVER)
    ]
    items += sentences.beyond_rounding(frame, searched, mapped)
    found = [Verdict(EVERYWHERE, "", items)]
    for problem in frame["problem"].unique():
        here, some, maps = (x[x["problem"] == problem] for x in (frame, searched, mapped))
        own = [Item("Lost searches, by precision", "", sentences.by_dtype(some))] if len(some) else []
        if own := own + sentences.beyond_rounding(here, some, maps):
            found.append(Verdict(str(problem), "", own))
    return [("", found)]


def tables(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table for each problem: a row for each inner solver and dtype."""
    frame = line_search.prepared(frame)
    searched, mapped = line_search.searched(frame), line_search.mapped(frame)
    made = []
    for problem in frame["problem"].unique():
        some = searched[searched["problem"] == problem]
        maps = mapped[mapped["problem"] == problem]
        body = []
        for solver, mine in sentences.by(some, SOLVER):
            for dtype, group in table.by_dtypes(mine):
                where = maps[(maps[SOLVER] == solver) & (maps["dtype"] == dtype)]
                shares = [line_search.losing(group), line_search.in_rounding(group)]
                shares += [line_search.indefinite(group), line_search.jumping(where)]
                counts = [f"{line_search.count(group, c):,}" for c in (SEARCHES, line_search.LOST)]
                body.append(
                    {
                        "method": solver, "color": _look(solver).color, "axes": [dtype, *counts],
                        "values": [_cell(share) for share in shares], "failed": "",
                        "n": f"{len(group)} tasks, {group['seed'].nunique()} seeds",
                    }
                )  # fmt: skip
        if body:
            made.append({"problem": problem, "first": "solver", "heads": [*HEADS, "n", ""], "rows": body})
    return made


def _cell(share: Share) -> tuple[str, str]:
    if share.n == 0:
        return "", ""
    text, _, interval = str(share).partition(" [")
    return text, f"[{interval}" if interval else ""


def _look(solver: str) -> Style:
    return LOOKS.get(solver) or style.of(solver)


def _looks(frame: pd.DataFrame) -> dict[str, Style]:
    return {name: _look(name) for name, _ in sentences.by(frame, SOLVER)}


def _searches(frame: pd.DataFrame) -> Figure:
    looks, dtypes = _looks(frame), list(style.dtypes(frame["dtype"]))
    problems = list(frame["problem"].unique())
    figure, axes = panels.canvas(2, len(problems), list(looks), row=1.75)
    promises = frame[PROMISE].to_numpy(dtype=float)
    for j, problem in enumerate(problems):
        here = frame[frame["problem"] == problem]
        up = scales.log_axis(axes[1, j], "y", promises[np.isfinite(promises)], "error", ticks=6)
        for k, (solver, mine) in enumerate(sentences.by(here, SOLVER)):
            aside = 0.22 * (k - (len(looks) - 1) / 2)
            _lost(axes[0, j], mine, dtypes, aside, looks[solver])
            for dtype, some in table.by_dtypes(mine):
                x = dtypes.index(dtype) + aside + _scattered(len(some), 0.07)
                axes[1, j].plot(x, up.place(some[PROMISE]), **_points(looks[solver]), clip_on=False)
        axes[0, j].set(ylim=(-0.08, 1.08), yticks=[0, 0.5, 1], yticklabels=["0", "50 %", "100 %"])
        axes[1, j].axhline(line_search.ULP, color="#444444", linewidth=0.8, zorder=0.6)
        for i in range(2):
            axes[i, j].set(xlim=(-0.5, len(dtypes) - 0.5), xticks=range(len(dtypes)), xticklabels=dtypes)
            axes[i, j].tick_params(labelleft=j == 0, labelbottom=i == 1)
            axes[i, j].grid(visible=False, axis="x")
        panels.title(axes[0, j], str(problem), 22)
    axes[0, 0].set_ylabel("tasks that\nlost a search")
    axes[1, 0].set_ylabel("promise of the\nlast search, ulps of G")
    panels.legend(figure, looks, failed=False, lines=False)
    return figure


def _lost(axes: Axes, frame: pd.DataFrame, dtypes: list[str], aside: float, look: Style) -> None:
    shares = {dtypes.index(d): line_search.losing(mine) for d, mine in table.by_dtypes(frame)}
    x = [k + aside for k in shares]
    axes.plot(x, [s.share for s in shares.values()], **look.options(linestyle="None"), clip_on=False)
    low, high = ([getattr(s, end) for s in shares.values()] for end in ("low", "high"))
    axes.vlines(x, low, high, color=look.color, linewidth=0.9)


def _map(frame: pd.DataFrame, mapped: pd.DataFrame) -> Figure:
    looks, at = _looks(mapped), line_search.distances(frame)
    problems = list(mapped["problem"].unique())
    entries = looks | {name: Style("#666666", "o", filled=full) for name, full in WAYS.items()}
    figure, axes = panels.canvas(2, len(problems), [*entries], row=1.75)
    everything = frame[list(at.values())].to_numpy(dtype=float)
    for j, problem in enumerate(problems):
        here = frame[(frame["problem"] == problem) & frame[JUMP].notna()]
        _mismatches(axes[0, j], here, looks, at, everything[np.isfinite(everything)])
        _jump_panel(axes[1, j], mapped[mapped["problem"] == problem], looks, mapped[JUMP])
        axes[0, j].set_xlabel("distance / |theta|")
        for i in range(2):
            axes[i, j].tick_params(labelleft=j == 0)
        panels.title(axes[0, j], str(problem), 30)
    axes[0, 0].set_ylabel("error of the meta-gradient\nas the map's derivative")
    axes[1, 0].set_ylabel("jump of phi,\nto its way from theta")
    panels.legend(figure, entries, failed=False)
    return figure


def _mismatches(
    axes: Axes, frame: pd.DataFrame, looks: dict[str, Style], at: dict[float, str], values: Iterable[float]
) -> None:
    up = scales.log_axis(axes, "y", values, "error", ROUNDING, ticks=6)
    scales.log_axis(axes, "x", list(at), "error", ticks=5)
    for solver, mine in sentences.by(frame, SOLVER):
        for unrolled in WAYS.values():
            some = mine[mine["method.name"].isin(UNROLLED) == unrolled]
            rows = {h: line_search.median(some, column) for h, column in at.items()} if len(some) else {}
            if rows:
                points = pd.DataFrame(rows.values(), columns=stats.Interval._fields, index=list(rows))
                look = looks[solver]
                look = Style(look.color, look.marker, look.line, filled=unrolled)
                panels.curve(axes, points, look, up)


def _jump_panel(axes: Axes, frame: pd.DataFrame, looks: dict[str, Style], jumps: pd.Series) -> None:
    up = scales.log_axis(axes, "y", jumps.dropna(), "error", ticks=6)
    for k, (solver, look) in enumerate(looks.items()):
        mine = frame.loc[frame[SOLVER] == solver, JUMP]
        x = k + _scattered(len(mine), 0.25)
        axes.plot(x, up.place(mine), **_points(look), clip_on=False)
    axes.set(xlim=(-0.5, len(looks) - 0.5), xticks=[])
    axes.grid(visible=False, axis="x")


def _points(look: Style) -> dict[str, Any]:
    return look.options(linestyle="None", markersize=2.6, markerfacecolor="none", markeredgewidth=0.6)


def _scattered(n: int, width: float) -> np.ndarray:
    """Evenly spread places, so that points do not hide each other."""
    return np.linspace(-width, width, n) if n > 1 else np.zeros(n)
