"""The assumptions of Theorem 1 as columns, per task, and the shares of tasks and of steps that violate them.

``assumptions.violating.A`` and ``assumptions.points.A`` of a task: at how many points of its inner path it
violates assumption A, of how many where that is known; ``assumptions.S`` is the size S at the last point,
``assumptions.start.largest`` the largest eigenvalue of the Hessian of G at theta (see `bench.assumptions`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analysis import stats
from analysis.labels import pretty
from analysis.metrics import ERRORS

NAMES = {
    "outer_lipschitz": "outer loss Lipschitz",
    "outer_smooth": "outer loss smooth",
    "inner_smooth": "G smooth",
    "hessian_lipschitz": "Hessian Lipschitz",
    "one_piece": "no switch in the step",
    "strongly_convex": "G strongly convex",
    "stationary": "phi stationary",
    "invertible": "I + H/lambda invertible",
    "curvature": "p'Ap > 0 in CG",
}
CONTINUITY = ("outer_lipschitz", "outer_smooth", "inner_smooth", "hessian_lipschitz", "one_piece")
NETWORK, DATA, STRENGTH, STAGE = "network", "data", "problem.strength", "stage"
STAGES = {"start": "at initialisation", "half": "half-trained", "end": "trained"}  # of `start` in a cell
# What tasks share that differ in the stage of the training they start from, and in nothing else.
_PAIR = ["problem", "method", "steps", "dtype", "start.cell", "seed", "task"]


class Correlation(NamedTuple):
    """Spearman's rank correlation of ``n`` pairs and its interval."""

    rho: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.rho:.2f} [{self.low:.2f}, {self.high:.2f}]"


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict of columns for each task, from the part ``assumptions`` of a record."""
    violated, sizes = found.get("violated") or {}, found.get("sizes") or {}
    n_tasks = max(map(len, violated.values()), default=0)
    made = []
    for task in range(n_tasks):
        row: dict[str, Any] = {"task": task}
        for name, tasks in violated.items():
            known = [value for value in tasks[task] if value is not None]
            row[f"assumptions.violating.{name}"] = sum(known)
            row[f"assumptions.points.{name}"] = len(known)
        row |= {f"assumptions.{name}": tasks[task][-1] for name, tasks in sizes.items()}
        if "largest" in sizes:
            row["assumptions.start.largest"] = sizes["largest"][task][0]
        made.append(row)
    return made


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The tasks whose assumptions were measured, converged or not, with `NETWORK`, `DATA` and `STAGE`.

    A network that a training left is another one ("tanh, trained"), but for a training's start.
    """
    column = "assumptions.points.strongly_convex"
    here = frame[frame[column].notna()] if column in frame else frame.iloc[:0]
    stages = _text(here, "start.stage").map(STAGES).fillna(STAGES["start"])
    trained = (", " + stages).where(stages != STAGES["start"], "")
    return here.assign(
        **{NETWORK: _networks(here) + trained, DATA: here["problem.name"].map(pretty), STAGE: stages}
    )


def at_all_stages(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The tasks measured at several stages of one training, and at all that any is: network -> tasks."""
    if "start.cell" not in frame:
        return []
    found = []
    for network, mine in frame[frame["start.cell"].notna()].groupby(_networks(frame), sort=True):
        stages = mine[STAGE].nunique()
        here = mine[mine.groupby(_PAIR)[STAGE].transform("nunique") == stages]
        if stages > 1 and len(here):
            found.append((str(network), here))
    return found


def change(frame: pd.DataFrame, name: str) -> str:
    """ "more often", "less often" or "as often": tasks that violate ``name`` at the last stage, to the first.

    By the exact test of McNemar at 5 %: of the tasks that violate it at one of the two stages only.
    """
    known = frame[frame[f"assumptions.points.{name}"] > 0]
    bad = known.assign(bad=known[f"assumptions.violating.{name}"] > 0).pivot(
        index=_PAIR, columns=STAGE, values="bad"
    )
    first, last = (stages := [s for s in STAGES.values() if s in bad])[0], stages[-1]
    both = bad[[first, last]].dropna().astype(bool)
    more, less = (int((both[a] & ~both[b]).sum()) for a, b in ((last, first), (first, last)))
    if more == less or binomtest(more, more + less).pvalue > 1 - stats.LEVEL:
        return "as often"
    return "more often" if more > less else "less often"


def names(frame: pd.DataFrame) -> list[str]:
    """The assumptions that are known of some task of ``frame``."""
    return [name for name in NAMES if frame.get(f"assumptions.points.{name}", pd.Series([0.0])).sum() > 0]


def of_tasks(frame: pd.DataFrame, *some: str) -> stats.Share:
    """How many tasks violate any of the assumptions ``some`` at any point, of those where one is known."""
    violating = frame[[f"assumptions.violating.{name}" for name in some]].sum(axis=1)
    known = frame[[f"assumptions.points.{name}" for name in some]].sum(axis=1) > 0
    return stats.wilson(int((violating[known] > 0).sum()), int(known.sum()))


def of_steps(frame: pd.DataFrame, name: str) -> stats.Share:
    """How many points of the inner paths of all tasks violate an assumption, of those where it is known."""
    k, n = (frame[f"assumptions.{what}.{name}"].sum() for what in ("violating", "points"))
    return stats.wilson(int(k), int(n))


def correlation(x: pd.Series, y: pd.Series) -> Correlation | None:
    """Spearman's, over rows that have both, with the interval of Bonett and Wright (2000); None below 10."""
    known = np.isfinite(x) & np.isfinite(y)
    n = int(known.sum())
    if n < 10 or x[known].nunique() < 2 or y[known].nunique() < 2:
        return None
    rho = float(x[known].rank().corr(y[known].rank()))
    half = stats.QUANTILE * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = (float(np.tanh(np.arctanh(np.clip(rho, -1 + 1e-15, 1 - 1e-15)) + e * half)) for e in (-1, 1))
    return Correlation(rho, low, high, n)


def violation_sizes(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """What may matter for the error, at the last point: title -> numbers, the larger the worse."""
    strength = frame[STRENGTH].astype(float)
    return {
        "-smallest eigenvalue of H / lambda": 1 - frame["assumptions.smallest"] / strength,
        "condition of I + H/lambda": frame["assumptions.condition"],
        "|grad G| to that at theta": frame["assumptions.stationarity"],
        "jump of grad G, relative": frame["assumptions.inner_smooth.jump"],
    }


def evidence(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables by name: shares, shares at the stages of trainings, rank correlations, median errors."""
    if frame.empty:
        return {}
    ranks, medians = [], []
    convex = frame["assumptions.violating.strongly_convex"] == 0
    for metric in ERRORS.values():
        for title, x in violation_sizes(frame).items():
            if rank := correlation(x, frame[metric.column]):
                ranks.append({"size": title, "error": metric.short} | rank._asdict())
        for where, some in (("convex along the path", convex), ("elsewhere", ~convex)):
            errors = frame.loc[some, metric.column].dropna()
            medians.append(
                {"tasks": where, "error": metric.short, "median": errors.median(), "n": len(errors)}
            )
    found = {"correlations": pd.DataFrame(ranks), "medians": pd.DataFrame(medians)}
    return {"shares": _all_shares(frame), "stages": _stages(frame)} | found


def ordered(values: Sequence[str], first: Sequence[str]) -> list[str]:
    """``values`` once each, those in ``first`` in that order, then the others by name."""
    there = set(values)
    return [v for v in first if v in there] + sorted(there - set(first))


def _all_shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Of tasks and of points of paths, by assumption; where a setting is missing, of all its values."""
    by = [DATA, NETWORK, STAGE, STRENGTH]
    rows: list[dict[str, Any]] = []
    for keys in (by, [DATA, NETWORK, STAGE], [DATA, STAGE, STRENGTH]):
        for values, group in frame.groupby(keys, sort=True):
            where = dict(zip(keys, values, strict=True))
            for name in names(group):
                for of, share in (("tasks", of_tasks(group, name)), ("points", of_steps(group, name))):
                    rows.append(where | {"assumption": NAMES[name], "of": of} | share._asdict())
    for what, some in (("any of continuity", CONTINUITY), ("any", names(frame))):
        known = [name for name in names(frame) if name in some]
        rows.append({"assumption": what, "of": "tasks"} | of_tasks(frame, *known)._asdict())
    return pd.DataFrame(rows, columns=[*by, "assumption", "of", *stats.Share._fields])


def _stages(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the tasks that are measured at all stages of a training, at each; and how the last compares."""
    return pd.DataFrame(
        {DATA: data, NETWORK: network, STAGE: stage, "assumption": NAMES[name], "last": change(some, name)}
        | of_tasks(some[some[STAGE] == stage], name)._asdict()
        for data, mine in frame.groupby(DATA, sort=True)
        for network, some in at_all_stages(mine)
        for name in names(some)
        for stage in STAGES.values()
        if (some[STAGE] == stage).any()
    )


def _text(frame: pd.DataFrame, column: str) -> pd.Series:
    return frame.get(column, pd.Series(pd.NA, index=frame.index)).astype("string")


def _networks(frame: pd.DataFrame) -> pd.Series:
    """ "relu", "tanh", "conv4, batch norm", ...; "linear" where the problem has no network."""
    name, activation, norm_ = (
        _text(frame, f"problem.network.{key}") for key in ("name", "activation", "norm")
    )
    normed = name + ", " + norm_.map({"batch": "batch norm", "none": "no norm"})
    return activation.fillna(normed).fillna(name).fillna("linear")
