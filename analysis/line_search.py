"""Line searches as the records tell them: lost ones, indefinite directions, jumps, unrolled against implicit.

A search is lost where no step length was accepted, or one was and G as computed did not fall. What belongs to
the inner solve (searches, jumps) is counted once, however many methods share it. Cells that did not converge
count: not converging is what a lost search leads to.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import stats
from analysis.labels import pretty
from analysis.metrics import ERRORS
from analysis.stats import Share, wilson

SOLVER, SEARCHES, LOST = "solver", "searches", "lost"
PROMISE, JUMP, GROWTH = "stats.line_search_promise", "switches.jump", "switches.growth"
INDEFINITE, UPHILL = "stats.negative_curvature", "stats.no_descent"
UNROLLED, IMPLICIT = ("maml-line-search", "maml"), ("imaml",)
ULP = 1.0  # a promised decrease below one is lost in rounding


class Paired(NamedTuple):
    """Median errors of two methods on the same tasks, and how often the first is the smaller."""

    unrolled: stats.Interval
    implicit: stats.Interval
    nearer: Share


def prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `SOLVER`, and `SEARCHES` and `LOST` of each task; NaN where nothing is searched."""
    accepted, failures, flat = (
        _column(frame, f"stats.line_search_{name}") for name in ("accepted", "failures", "flat")
    )
    solver = frame.get("method.inner.name", pd.Series(pd.NA, index=frame.index, dtype="string")).map(
        pretty, na_action="ignore"
    )
    return frame.assign(**{SOLVER: solver, SEARCHES: accepted + failures, LOST: failures + flat})


def searched(frame: pd.DataFrame) -> pd.DataFrame:
    """Each task with at least one search, once for each inner solve."""
    return _once(frame[frame[SEARCHES] > 0])


def mapped(frame: pd.DataFrame) -> pd.DataFrame:
    """Each task whose map from theta to phi was looked at, once for each inner solve."""
    return _once(frame[_column(frame, JUMP).notna()])


def losing(frame: pd.DataFrame) -> Share:
    """How many tasks lost a search."""
    return wilson(int((frame[LOST] > 0).sum()), len(frame))


def in_rounding(frame: pd.DataFrame) -> Share:
    """How many of the tasks that lost a search promised less than an ulp of G in their last one."""
    lost = frame[(frame[LOST] > 0) & frame[PROMISE].notna()]
    return wilson(int((lost[PROMISE] < ULP).sum()), len(lost))


def indefinite(frame: pd.DataFrame) -> Share:
    """How many tasks met a direction of no positive curvature, of those where the solver tells."""
    known = _column(frame, INDEFINITE).dropna()
    return wilson(int((known > 0).sum()), len(known))


def jumping(frame: pd.DataFrame) -> Share:
    """How many tasks jump."""
    return wilson(int((frame[JUMP] > 0).sum()), len(frame))


def distances(frame: pd.DataFrame) -> dict[float, str]:
    """Distance of the pass `switches` -> its column of mismatches, falling."""
    head = "switches.mismatch."
    found = {float(c.removeprefix(head)): c for c in frame.columns if str(c).startswith(head)}
    return dict(sorted(found.items(), reverse=True))


def median(frame: pd.DataFrame, column: str) -> stats.Interval:
    """Over seeds and tasks, whether their cells converged or not."""
    values = _column(frame, column)
    return stats.hierarchical(values.to_numpy(dtype=float), frame["seed"].to_numpy(dtype=float))


def paired(frame: pd.DataFrame) -> Paired | None:
    """Unrolled through the search against implicit, errors to the implicit gradient; None without a pair."""
    error = ERRORS["implicit"].column
    known = frame[frame[error].notna()].assign(_key=_solve(frame))
    ours, theirs = (known[known["method.name"].isin(names)] for names in (UNROLLED, IMPLICIT))
    both = ours.merge(theirs, on=["_key", "seed", "task"], suffixes=("", ".implicit"))
    if both.empty:
        return None
    ours, theirs = (both[c].to_numpy(dtype=float) for c in (error, f"{error}.implicit"))
    seeds = both["seed"].to_numpy(dtype=float)
    nearer = wilson(int((ours < theirs).sum()), len(both))
    return Paired(stats.hierarchical(ours, seeds), stats.hierarchical(theirs, seeds), nearer)


def count(frame: pd.DataFrame, column: str) -> int:
    """A sum over tasks."""
    return int(np.nansum(_column(frame, column)))


def _solve(frame: pd.DataFrame) -> pd.Series:
    """What decides an inner solve besides seed and task, as text."""
    inner = sorted(c for c in frame.columns if str(c).startswith("method.inner."))
    keys = [c for c in ("problem", "dtype", "split", "n_tasks", *inner) if c in frame]
    return frame[keys].astype("string").fillna("").agg("|".join, axis=1) if len(frame) else frame["problem"]


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    keyed = frame.assign(_key=_solve(frame))
    return keyed.drop_duplicates(["_key", "seed", "task"]).drop(columns="_key")


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    absent = pd.Series(np.nan, index=frame.index, dtype="float64")
    return frame.get(name, absent).astype("float64")
