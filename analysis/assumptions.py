"""The assumptions of Theorem 1 as columns, per task, and the shares of tasks and of steps that violate them.

``assumptions.violating.A`` and ``assumptions.points.A`` of a task: at how many points of its inner path it
violates assumption A, of how many where that is known; ``assumptions.S`` is the size S at the last point,
``assumptions.start.largest`` the largest eigenvalue of the Hessian of G at theta (see `bench.assumptions`).
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.labels import pretty

LEVEL = 0.95
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
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
NETWORK, DATA, STRENGTH = "network", "data", "problem.strength"


class Share(NamedTuple):
    """``k`` of ``n``, and the Wilson interval of the share; NaN where n is 0."""

    k: int
    n: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.n == 0:
            return "not known"
        return f"{100 * self.share:.3g} % [{100 * self.low:.3g}, {100 * self.high:.3g}]"


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


def wilson(k: int, n: int) -> Share:
    """The share k / n with its 95 % Wilson score interval."""
    if n == 0:
        return Share(k, n, np.nan, np.nan, np.nan)
    share, z2 = k / n, QUANTILE**2
    middle, half = share + z2 / (2 * n), QUANTILE * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    low, high = ((middle + end * half) / (1 + z2 / n) for end in (-1, 1))
    return Share(k, n, share, 0.0 if k == 0 else float(low), 1.0 if k == n else float(high))


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The tasks whose assumptions were measured, converged or not, with `NETWORK` and `DATA`."""
    column = "assumptions.points.strongly_convex"
    here = frame[frame[column].notna()] if column in frame else frame.iloc[:0]
    return here.assign(**{NETWORK: _networks(here), DATA: here["problem.name"].map(pretty)})


def names(frame: pd.DataFrame) -> list[str]:
    """The assumptions that are known of some task of ``frame``."""
    return [name for name in NAMES if frame.get(f"assumptions.points.{name}", pd.Series([0.0])).sum() > 0]


def of_tasks(frame: pd.DataFrame, *some: str) -> Share:
    """How many tasks violate any of the assumptions ``some`` at any point, of those where one is known."""
    violating = frame[[f"assumptions.violating.{name}" for name in some]].sum(axis=1)
    known = frame[[f"assumptions.points.{name}" for name in some]].sum(axis=1) > 0
    return wilson(int((violating[known] > 0).sum()), int(known.sum()))


def of_steps(frame: pd.DataFrame, name: str) -> Share:
    """How many points of the inner paths of all tasks violate an assumption, of those where it is known."""
    k, n = (frame[f"assumptions.{what}.{name}"].sum() for what in ("violating", "points"))
    return wilson(int(k), int(n))


def correlation(x: pd.Series, y: pd.Series) -> Correlation | None:
    """Spearman's, over rows that have both, with the interval of Bonett and Wright (2000); None below 10."""
    known = np.isfinite(x) & np.isfinite(y)
    n = int(known.sum())
    if n < 10 or x[known].nunique() < 2 or y[known].nunique() < 2:
        return None
    rho = float(x[known].rank().corr(y[known].rank()))
    half = QUANTILE * np.sqrt((1 + rho**2 / 2) / (n - 3))
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


def ordered(values: Sequence[str], first: Sequence[str]) -> list[str]:
    """``values`` once each, those in ``first`` in that order, then the others by name."""
    there = set(values)
    return [v for v in first if v in there] + sorted(there - set(first))


def _networks(frame: pd.DataFrame) -> pd.Series:
    """ "relu", "tanh", "conv4, batch norm", ...; "none" where the problem has no network."""
    absent = pd.Series(pd.NA, index=frame.index, dtype="string")
    name, activation, norm_ = (
        frame.get(f"problem.network.{key}", absent).astype("string") for key in ("name", "activation", "norm")
    )
    normed = name + ", " + norm_.map({"batch": "batch norm", "none": "no norm"})
    return activation.fillna(normed).fillna(name).fillna("none")
