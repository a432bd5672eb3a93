"""The answer of the study `line_search` in words."""

import pandas as pd

from analysis import assumptions, line_search, stats, style, table, units
from analysis.line_search import JUMP, SEARCHES, SOLVER, UNROLLED
from analysis.verdict import Item

SOLVERS = ("Armijo", "L-BFGS", "Hessian-free", "gradient descent")
OUTER_STEP = 1e-2  # a distance to |theta| of about such a step


def answer(searched: pd.DataFrame, mapped: pd.DataFrame) -> str:
    """The first sentences: rounding or not, and what else there is where rounding plays no part."""
    parts = []
    lost, why = line_search.losing(searched), line_search.in_rounding(searched)
    n = f"{searched['seed'].nunique()} seeds, {line_search.count(searched, SEARCHES):,} searches"
    if lost.n and lost.k == 0:
        parts.append(f"It does not fail: no search of {lost.n:,} tasks ({n}) was lost.")
    elif lost.n:
        worst = max(table.by_dtypes(searched), key=lambda one: line_search.losing(one[1]).share)[0]
        rounded = why.n > 0 and why.low > 0.5
        cause = "Because the decrease of G is lost in rounding" if rounded else "Not by rounding alone"
        shares = "; ".join(f"{d} {_share(line_search.losing(g))}" for d, g in table.by_dtypes(searched))
        text = f"{cause}: tasks that lost a search are {shares} ({n}), the most in {worst}"
        if why.n:
            text += f"; of those that lost one {_share(why)} were promised less than an ulp of G by the last"
        parts.append(f"{text}.")
    own = mapped[mapped[SOLVER].isin(searched[SOLVER].unique())]
    if len(own):
        jumping = line_search.jumping(own)
        verb = "And" if jumping.k else "But"
        parts.append(
            f"{verb} in {_dtypes(own)}, rounding apart, phi jumps within 1 % of |theta| in {_share(jumping)}."
        )
    return " ".join(parts)


def beyond_rounding(frame: pd.DataFrame, searched: pd.DataFrame, mapped: pd.DataFrame) -> list[Item]:
    """Indefinite directions, what unrolling drops, jumps, unrolled against implicit."""
    items = []
    if widest := table.by_dtypes(searched):  # elsewhere the sign of a curvature may be rounding
        dtype, here = widest[0]
        parts = [
            f"{name} {_share(share)} ({line_search.count(mine, line_search.UPHILL):,} steps not downhill)"
            for name, mine in by(here, SOLVER)
            if (share := line_search.indefinite(mine)).n
        ]
        if parts:
            items.append(Item(f"Indefinite directions, in {dtype}", "", "; ".join(parts) + "."))
    if text := "; ".join(_dropped(name, mine) for name, mine in _unrolled(frame)):
        items.append(Item("What unrolling with constant step lengths drops", "", text + "."))
    if text := "; ".join(_jumps(name, mine) for name, mine in by(mapped, SOLVER)):
        items.append(Item("Jumps of the adapted parameters", "", text + "."))
    pairs = [
        f"{name} {_described(pair.unrolled)} against {_described(pair.implicit)}, the unrolled one nearer in "
        f"{_share(pair.nearer)}"
        for name, mine in by(frame, SOLVER)
        if (pair := line_search.paired(mine)) is not None
    ]
    if pairs:
        term = "Median error to the implicit gradient, unrolled against implicit"
        items.append(Item(term, "", "; ".join(pairs) + "."))
    return items


def _unrolled(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    looked_at = frame[JUMP].notna() if JUMP in frame else pd.Series(False, index=frame.index)
    return by(frame[frame["method.name"].isin(UNROLLED) & looked_at], SOLVER)


def _dropped(name: str, frame: pd.DataFrame) -> str:
    """Text such as "Armijo 2.0e-11 [..] of the meta-gradient at distance 1e-05, and 1.3 [..] at 0.01 ..."."""
    at = line_search.distances(frame)
    shown = [h for h in (min(at), OUTER_STEP) if h in at]
    parts = [f"{_described(line_search.median(frame, at[h]))} at distance {h:g}" for h in shown]
    return f"{name} {' and '.join(parts)} ({len(frame)} tasks, {frame['seed'].nunique()} seeds)"


def _jumps(name: str, frame: pd.DataFrame) -> str:
    share = line_search.jumping(frame)
    text = f"{name} {_share(share)}"
    if share.k:
        size = line_search.median(frame[frame[JUMP] > 0], JUMP)
        growth = line_search.median(frame[frame[JUMP] > 0], line_search.GROWTH)
        text += f", by {_described(size)} of their way, quotients growing {_described(growth)} times"
    return text


def by_dtype(frame: pd.DataFrame) -> str:
    parts = []
    for dtype, mine in table.by_dtypes(frame):
        lost, all_ = line_search.count(mine, line_search.LOST), line_search.count(mine, SEARCHES)
        failed = line_search.count(mine, "stats.line_search_failures")
        share = line_search.losing(mine)
        parts.append(
            f"{dtype} {all_:,} searches, {lost:,} lost ({failed:,} found no step), in {_share(share)}"
        )
    return "; ".join(parts) + "."


def _share(share: stats.Share) -> str:
    return f"{share} of {share.n:,} tasks"


def _described(interval: stats.Interval) -> str:
    return units.interval(*interval[:3])


def _dtypes(frame: pd.DataFrame) -> str:
    return " and ".join(style.dtypes(frame["dtype"]))


def by(frame: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    values = assumptions.ordered(frame[column].dropna().tolist(), SOLVERS)
    return [(value, frame[frame[column] == value]) for value in values]
