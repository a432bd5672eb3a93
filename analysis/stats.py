"""Medians with bootstrap intervals; the generator is seeded here, so a figure never depends on call order."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from analysis.metrics import Metric

RESAMPLES = 1000
LEVEL = 0.95
QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
SEED = 20190904  # any fixed number does
STATISTIC = (
    f"Median over seeds and tasks with {LEVEL:.0%} bootstrap interval (percentile, {RESAMPLES} resamples; "
    "seeds are drawn with replacement, then tasks within each seed; with one seed over its tasks only). "
    "Costs: median over the cells' medians, bootstrapped over seeds; with a single cell over its rounds."
)


class Interval(NamedTuple):
    """A median, the ends of its interval (NaN where one value gives none), and how many values it is of."""

    median: float
    low: float
    high: float
    n: int
    n_groups: int


class Mean(NamedTuple):
    """A mean, the ends of its interval (NaN where one value gives none), and how many values it is of."""

    mean: float
    low: float
    high: float
    n: int


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


def wilson(k: int, n: int) -> Share:
    """The share k / n with its 95 % Wilson score interval."""
    if n == 0:
        return Share(k, n, np.nan, np.nan, np.nan)
    share, z2 = k / n, QUANTILE**2
    middle, half = share + z2 / (2 * n), QUANTILE * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    low, high = ((middle + end * half) / (1 + z2 / n) for end in (-1, 1))
    return Share(k, n, share, 0.0 if k == 0 else float(low), 1.0 if k == n else float(high))


def student(values: np.ndarray) -> Mean:
    """Mean of ``values`` [n] with Student's interval: mean -+ t s / sqrt(n), t of n - 1 degrees of freedom.

    Exact for normal values, and for the few seeds of a training, of which a bootstrap knows too little.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Mean(np.nan, np.nan, np.nan, 0)
    mean = float(values.mean())
    if n == 1:
        return Mean(mean, np.nan, np.nan, 1)
    half = float(student_t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / n**0.5)
    return Mean(mean, mean - half, mean + half, n)


def hierarchical(values: np.ndarray, groups: np.ndarray) -> Interval:
    """Median of ``values`` [n] with a two-level bootstrap interval: over ``groups`` [n], then within them.

    Values that are NaN are left out; infinities count. With one group it is the plain bootstrap.
    """
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    known = ~np.isnan(values)
    _, code = np.unique(groups[known], return_inverse=True)
    order = np.argsort(code, kind="stable")
    values, sizes = values[known][order], np.bincount(code)
    if len(values) == 0:
        return Interval(np.nan, np.nan, np.nan, 0, 0)
    median = float(np.median(values))
    if len(values) == 1:
        return Interval(median, np.nan, np.nan, 1, 1)
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(sizes), size=(RESAMPLES, len(sizes)))
    within = np.floor(rng.random((RESAMPLES, len(sizes), sizes.max())) * sizes[drawn][:, :, None]).astype(int)
    sample = values[np.concatenate([[0], np.cumsum(sizes)[:-1]])[drawn][:, :, None] + within]
    absent = np.arange(sizes.max()) >= sizes[drawn][:, :, None]  # a drawn group gives as many as it has
    medians = _median_of_present(np.where(absent, np.inf, sample).reshape(RESAMPLES, -1), sizes[drawn].sum(1))
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return Interval(median, float(low), float(high), len(values), len(sizes))


def bootstrap(values: np.ndarray) -> Interval:
    """Median of ``values`` [n] with a plain bootstrap interval."""
    return hierarchical(values, np.zeros(len(values)))


def spread(values: pd.Series) -> tuple[float, float]:
    """The range that holds the middle 95 % of ``values``."""
    low, high = np.nanquantile(values.to_numpy(dtype=float), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def summarise(frame: pd.DataFrame, by: list[str], metric: Metric) -> pd.DataFrame:
    """One row per group of ``by``: median, low, high, n (values), n_groups (seeds).

    Only rows of cells that ended well count, and groups without a value are left out. A cost belongs to the
    cell, so its repetitions over tasks are dropped first; a group of one cell takes that cell's own interval.
    """
    columns = list(
        dict.fromkeys([*by, "id", "seed", metric.column, *filter(None, (metric.low, metric.high))])
    )
    ok = frame.loc[(frame["status"] == "ok") & frame[metric.column].notna(), columns]
    if not metric.per_task:
        ok = ok.drop_duplicates("id")
    keys = (
        ok[by].drop_duplicates().reset_index(drop=True)
    )  # in the order in which `ngroup` numbers the groups
    code = ok.groupby(by, dropna=False, sort=False).ngroup().to_numpy()
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code, minlength=len(keys)))[:-1]
    values, seeds = (np.split(ok[c].to_numpy(dtype=float)[order], ends) for c in (metric.column, "seed"))
    found = [hierarchical(*one) for one in zip(values, seeds, strict=True)] if len(keys) else []
    intervals = pd.DataFrame(found, columns=list(Interval._fields))
    if metric.low and metric.high and len(keys):
        alone = (intervals["n"] == 1).to_numpy()
        first = np.split(order, ends)
        for end in ("low", "high"):
            own = ok[getattr(metric, end)].to_numpy(dtype=float)[[int(rows[0]) for rows in first]]
            intervals.loc[alone, end] = own[alone]
    return pd.concat([keys, intervals], axis=1)


def _median_of_present(rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Median of the first ``sizes`` [B] values of each sorted row [B, n]; the absent ones are +inf."""
    rows = np.sort(rows, axis=1)
    lower, upper = (np.take_along_axis(rows, i[:, None], 1)[:, 0] for i in ((sizes - 1) // 2, sizes // 2))
    # Equal halves are taken as they are: the mean of two infinities is fine, but their difference is not.
    return np.where(lower == upper, lower, 0.5 * (lower + upper))
