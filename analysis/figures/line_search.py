"""What becomes of line searches by precision, and how the adapted parameters follow theta."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import assumptions, line_search, panels, scales, stats, style, units
from analysis.line_search import JUMP, PROMISE, SEARCHES, SOLVER, UNROLLED
from analysis.style import Style
from analysis.verdict import Item, Verdict

LOOKS = {
    "Armijo": Style("#0072B2", "s", (0, (6, 1.5))),
    "L-BFGS": Style("#D55E00", "^", (0, (2, 1))),
    "Hessian-free": Style("#5a5200", "D", (0, (6, 1, 1, 1))),
    "gradient descent": Style("#000000", "o", "-"),
}
ROUNDING, SMOOTH = 1e-12, 1e-12  # errors and jumps up to which an axis shows none
TABLE = (
    "Shares of tasks with 95% Wilson intervals, medians over seeds and tasks with 95% bootstrap intervals."
)
HEADS = ["dtype", "searches", "lost", "tasks that lost one", "of them below an ulp", "indefinite", "jump"]


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "First figure, a column for each problem: the share of tasks that lost a line search (no step length "
        "was accepted, or G as computed did not fall after one), against the precision, bars are 95% Wilson "
        "intervals; below, for each task what its last search promised, -t grad'd, in ulps of G: below the "
        "line rounding decides. Second figure: the relative error of the meta-gradient as the derivative of "
        "the method's own map from theta to the query loss, by central differences over a distance; filled: "
        "unrolled through the search with its step lengths as constants, hollow: implicit; below, the largest "
        "jump of the adapted parameters within 1 % of |theta|, to the way that they went, a point for each task."
    )


def words(frame: pd.DataFrame) -> dict[str, str]:
    """What the caption takes from the records beyond every caption."""
    return {
        "Statistic": "Wilson score intervals of shares, though tasks of one seed share their meta-parameters; "
        f"{stats.STATISTIC[0].lower()}{stats.STATISTIC[1:]} Cells that did not converge count.",
        "Axes": "Logarithmic but for the shares.",
    }


def draw(frame: pd.DataFrame) -> list[Figure]:
    """The searches, then the map from theta."""
    frame = line_search.prepared(frame)
    searched, mapped = line_search.searched(frame), line_search.mapped(frame)
    figures = []
    if len(searched):
        figures.append(_searches(searched))
    if len(mapped):
        figures.append(_map(frame[frame["problem"].isin(mapped["problem"].unique())], mapped))
    if not figures:
        figure, axes = panels.canvas(1, 1, [])
        axes[0, 0].set(xticks=[], yticks=[])
        panels.note(axes[0, 0], "no line search measured", empty=True)
        figures.append(figure)
    return figures


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """Why line search fails, over everything; then each problem."""
    frame = line_search.prepared(frame)
    searched, mapped = line_search.searched(frame), line_search.mapped(frame)
    if searched.empty and mapped.empty:
        nothing = Item("No verdict", "", "No line search was measured.")
        return [("", [Verdict("all problems", "", [nothing])])]
    items = [Item("Why it fails", "", _answer(searched, mapped))]
    items += [Item(f"{name}, by precision", "", _by_dtype(mine)) for name, mine in _by(searched, SOLVER)]
    items += _beyond_rounding(frame, searched, mapped)
    found = [Verdict("all problems", "", items)]
    for problem in frame["problem"].unique():
        here, some, maps = (x[x["problem"] == problem] for x in (frame, searched, mapped))
        own = [Item("Lost searches, by precision", "", _by_dtype(some))] if len(some) else []
        if own := own + _beyond_rounding(here, some, maps):
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
        for solver, mine in _by(some, SOLVER):
            for dtype, group in _by_dtypes(mine):
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


def _answer(searched: pd.DataFrame, mapped: pd.DataFrame) -> str:
    """The first sentences: rounding or not, and what else there is where rounding plays no part."""
    parts = []
    lost, why = line_search.losing(searched), line_search.in_rounding(searched)
    n = f"{searched['seed'].nunique()} seeds, {line_search.count(searched, SEARCHES):,} searches"
    if lost.n and lost.k == 0:
        parts.append(f"It does not fail: no search of {lost.n:,} tasks ({n}) was lost.")
    elif lost.n:
        worst = max(_by_dtypes(searched), key=lambda one: line_search.losing(one[1]).share)[0]
        rounded = why.n > 0 and why.low > 0.5
        cause = "Because the decrease of G is lost in rounding" if rounded else "Not by rounding alone"
        shares = "; ".join(f"{d} {_share(line_search.losing(g))}" for d, g in _by_dtypes(searched))
        text = f"{cause}: tasks that lost a search are {shares} ({n}), the most in {worst}"
        text += (
            f"; in {_share(why)} of these the last search promised less than an ulp of G." if why.n else "."
        )
        parts.append(text)
    own = mapped[mapped[SOLVER].isin(searched[SOLVER].unique())]
    if len(own):
        jumping = line_search.jumping(own)
        verb = "And" if jumping.k else "But"
        parts.append(
            f"{verb} {_share(jumping)} have a jump of the adapted parameters within 1 % of |theta|, in {_dtypes(own)}."
        )
    return " ".join(parts)


def _beyond_rounding(frame: pd.DataFrame, searched: pd.DataFrame, mapped: pd.DataFrame) -> list[Item]:
    """Indefinite directions, what unrolling drops, jumps, unrolled against implicit."""
    items = []
    if text := "; ".join(
        f"{name} {_share(share)} ({line_search.count(mine, line_search.UPHILL):,} steps of no descent)"
        for name, mine in _by(searched, SOLVER)
        if (share := line_search.indefinite(mine)).n
    ):
        items.append(Item("Tasks that met an indefinite direction", "", text + "."))
    if text := "; ".join(_dropped(name, mine) for name, mine in _unrolled(frame)):
        items.append(Item("What unrolling with constant step lengths drops", "", text + "."))
    if text := "; ".join(_jumps(name, mine) for name, mine in _by(mapped, SOLVER)):
        items.append(Item("Jumps of the adapted parameters", "", text + "."))
    pairs = [
        f"{name} {_described(pair.unrolled)} against {_described(pair.implicit)}, the unrolled one nearer in "
        f"{_share(pair.nearer)}"
        for name, mine in _by(frame, SOLVER)
        if (pair := line_search.paired(mine)) is not None
    ]
    if pairs:
        items.append(
            Item(
                "Median error to the implicit gradient, unrolled against implicit", "", "; ".join(pairs) + "."
            )
        )
    return items


def _unrolled(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return _by(
        frame[frame["method.name"].isin(UNROLLED) & frame.get(JUMP, pd.Series(dtype=float)).notna()], SOLVER
    )


def _dropped(name: str, frame: pd.DataFrame) -> str:
    """Text such as "Armijo 2.0e-11 [..] of the meta-gradient at distance 1e-05, and 1.3 [..] at 0.01 ..."."""
    at = line_search.distances(frame)
    shown = [h for h in (min(at), 1e-2) if h in at]
    parts = [
        f"{_described(line_search.median(frame, at[h]))} at distance {h:g}" for h in dict.fromkeys(shown)
    ]
    return f"{name} {' and '.join(parts)} ({len(frame)} tasks, {frame['seed'].nunique()} seeds)"


def _jumps(name: str, frame: pd.DataFrame) -> str:
    share = line_search.jumping(frame)
    text = f"{name} {_share(share)}"
    if share.k:
        size = line_search.median(frame[frame[JUMP] > 0], JUMP)
        growth = line_search.median(frame[frame[JUMP] > 0], line_search.GROWTH)
        text += f", by {_described(size)} of their way, quotients growing {_described(growth)} times"
    return text


def _by_dtype(frame: pd.DataFrame) -> str:
    parts = []
    for dtype, mine in _by_dtypes(frame):
        lost, all_ = line_search.count(mine, line_search.LOST), line_search.count(mine, SEARCHES)
        failed = line_search.count(mine, "stats.line_search_failures")
        share = line_search.losing(mine)
        parts.append(
            f"{dtype} {all_:,} searches, {lost:,} lost ({failed:,} found no step), in {_share(share)}"
        )
    return "; ".join(parts) + "."


def _share(share: assumptions.Share) -> str:
    return f"{share} of {share.n:,} tasks"


def _described(interval: stats.Interval) -> str:
    text = units.digits(interval.median)
    if np.isnan(interval.low):
        return text
    return f"{text} [{units.digits(interval.low)}, {units.digits(interval.high)}]"


def _cell(share: assumptions.Share) -> tuple[str, str]:
    if share.n == 0:
        return "", ""
    text, _, interval = str(share).partition(" [")
    return text, f"[{interval}" if interval else ""


def _dtypes(frame: pd.DataFrame) -> str:
    return " and ".join(style.dtypes(frame["dtype"]))


def _by_dtypes(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(name, frame[frame["dtype"] == name]) for name in style.dtypes(frame["dtype"])]


def _by(frame: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    values = assumptions.ordered(frame[column].dropna().tolist(), tuple(LOOKS))
    return [(value, frame[frame[column] == value]) for value in values]


def _look(solver: str) -> Style:
    return LOOKS.get(solver) or style.of(solver)


def _looks(frame: pd.DataFrame) -> dict[str, Style]:
    return {name: _look(name) for name, _ in _by(frame, SOLVER)}


def _searches(frame: pd.DataFrame) -> Figure:
    looks, dtypes = _looks(frame), list(style.dtypes(frame["dtype"]))
    problems = list(frame["problem"].unique())
    figure, axes = panels.canvas(2, len(problems), list(looks), row=1.75)
    promises = frame[PROMISE].to_numpy(dtype=float)
    for j, problem in enumerate(problems):
        here = frame[frame["problem"] == problem]
        up = scales.log_axis(axes[1, j], "y", promises[np.isfinite(promises)], "error", ticks=6)
        for k, (solver, mine) in enumerate(_by(here, SOLVER)):
            aside = 0.22 * (k - (len(looks) - 1) / 2)
            _lost(axes[0, j], mine, dtypes, aside, looks[solver])
            x = np.array([dtypes.index(d) for d in mine["dtype"]]) + aside + _scattered(len(mine), 0.07)
            axes[1, j].plot(x, up.place(mine[PROMISE]), **_points(looks[solver]), clip_on=False)
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
    shares = {dtypes.index(d): line_search.losing(mine) for d, mine in _by_dtypes(frame)}
    x = [k + aside for k in shares]
    axes.plot(x, [s.share for s in shares.values()], **look.options(linestyle="None"), clip_on=False)
    axes.vlines(
        x,
        [s.low for s in shares.values()],
        [s.high for s in shares.values()],
        color=look.color,
        linewidth=0.9,
    )


def _map(frame: pd.DataFrame, mapped: pd.DataFrame) -> Figure:
    looks, at = _looks(mapped), line_search.distances(frame)
    problems = list(mapped["problem"].unique())
    figure, axes = panels.canvas(2, len(problems), [*looks], row=1.75)
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
    panels.legend(figure, looks, failed=False)
    return figure


def _mismatches(
    axes: Axes, frame: pd.DataFrame, looks: dict[str, Style], at: dict[float, str], values: Iterable[float]
) -> None:
    up = scales.log_axis(axes, "y", values, "error", ROUNDING, ticks=6)
    scales.log_axis(axes, "x", list(at), "error", ticks=5)
    for solver, mine in _by(frame, SOLVER):
        for unrolled in (True, False):
            some = mine[mine["method.name"].isin(UNROLLED) == unrolled]
            rows = {h: line_search.median(some, column) for h, column in at.items()} if len(some) else {}
            if rows:
                points = pd.DataFrame(rows.values(), columns=stats.Interval._fields, index=list(rows))
                look = looks[solver]
                look = Style(look.color, look.marker, look.line, filled=unrolled)
                panels.curve(axes, points, look, up)


def _jump_panel(axes: Axes, frame: pd.DataFrame, looks: dict[str, Style], jumps: pd.Series) -> None:
    up = scales.log_axis(axes, "y", jumps.dropna(), "error", SMOOTH, ticks=6)
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
