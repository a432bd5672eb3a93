"""What inner optimizers cost at equal error: each at the fewest swept steps that reach it.

An optimizer reaches a target at the first of its swept numbers of steps K whose median relative error to the
implicit gradient, over seeds and tasks, is below it; nothing is interpolated. Cells that did not converge
count: to stop after K steps is what is compared. Costs are medians over cells with that K.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import stats
from analysis.labels import pretty
from analysis.metrics import CPU_SECONDS, ERRORS, RESIDENT, SECONDS, TENSOR_BYTES, Metric
from analysis.table import STEPS

TARGETS = (0.1, 0.01)
FAMILY, OPTIMIZER, VARIANT = "family", "optimizer", "variant"
FAMILIES = {"maml": "MAML", "maml-line-search": "MAML", "imaml": "iMAML"}
BASELINE = "gradient descent"
OPTIMIZERS = (BASELINE, "Nesterov", "momentum", "Adam", "Armijo", "L-BFGS", "Hessian-free")
ERROR = ERRORS["implicit"]
CALLS = Metric(
    "calls.all", "oracle calls", "oracle calls", "count",
    words="oracle calls per task (gradients, Hessian products and values)",
)  # fmt: skip
COSTS = (SECONDS, CPU_SECONDS, TENSOR_BYTES, RESIDENT, CALLS)
MEASURED = ("ok", "not_converged")


class Reached(NamedTuple):
    """How an optimizer comes to a target: ``steps`` None where it does not, and ``why`` then."""

    problem: str
    family: str
    optimizer: str
    target: float
    steps: int | None
    error: stats.Interval | None
    cells: pd.DataFrame  # those with that K
    why: str = ""

    def cost(self, metric: Metric) -> stats.Interval:
        """The median over cells, bootstrapped over seeds; a single cell has its own interval."""
        known = self.cells[self.cells[metric.column].notna()]
        found = stats.hierarchical(
            known[metric.column].to_numpy(dtype=float), known["seed"].to_numpy(dtype=float)
        )
        if found.n == 1 and metric.low and metric.high:
            low, high = (float(known[column].iloc[0]) for column in (metric.low, metric.high))
            return found._replace(low=low, high=high)
        return found

    def ratio(self, other: "Reached", metric: Metric) -> stats.Interval:
        """The cost as a multiple of ``other``'s on the same seed: the median over seeds."""
        ours, theirs = (one.cells.groupby("seed")[metric.column].median().dropna() for one in (self, other))
        ratios = (ours / theirs).dropna()
        return stats.hierarchical(ratios.to_numpy(dtype=float), np.asarray(ratios.index, dtype=float))


def prepared(frame: pd.DataFrame) -> pd.DataFrame:
    """What is needed of the tasks of MAML and iMAML: `FAMILY`, `OPTIMIZER`, `VARIANT`, error and `COSTS`."""
    here = frame[frame["method.name"].isin(FAMILIES) & frame[STEPS].notna()]
    settings = sorted(str(c) for c in here if str(c).startswith("method.") and c != "method.inner.steps")
    settings += ["dtype", "device", "threads", "engine"]
    absent = pd.Series(np.nan, index=here.index)
    kinds = ("derivatives", "inner_values")
    derivatives, values = (here.get(f"calls.{kind}", absent).astype("float64") for kind in kinds)
    texts = here[settings].astype("string").fillna("")
    costs = [c for m in COSTS[:-1] for c in (m.column, m.low, m.high) if c is not None]
    kept = ["id", "status", "reason", "problem", "seed", STEPS, ERROR.column, "missing.implicit", *costs]
    return here[kept].assign(
        **{
            FAMILY: here["method.name"].map(FAMILIES).astype("string"),
            OPTIMIZER: here.get("method.inner.name", absent).astype("string").map(pretty, na_action="ignore"),
            VARIANT: pd.Series(["|".join(row) for row in texts.to_numpy()], index=here.index, dtype="string"),
            CALLS.column: derivatives + values.fillna(0),
        }
    )


def comparisons(frame: pd.DataFrame, targets: tuple[float, ...] = TARGETS) -> list[list[Reached]]:
    """For each problem, method and target: what becomes of each optimizer."""
    return [
        [_reached(frame, problem, family, optimizer, target) for optimizer in _optimizers(of_problem)]
        for problem, of_problem in _by(frame, "problem")
        for family in dict.fromkeys(FAMILIES.values())
        if (of_problem[FAMILY] == family).any()
        for target in targets
    ]


def fastest(comparison: list[Reached], metric: Metric = SECONDS) -> Reached | None:
    """The cheapest by a measure of those that reach the target; None where none does or nothing is known."""
    known = [one for one in comparison if one.steps is not None and one.cost(metric).n]
    return min(known, key=lambda one: one.cost(metric).median, default=None)


def baseline(comparison: list[Reached]) -> Reached | None:
    """Gradient descent, where it reaches the target."""
    return next((one for one in comparison if one.optimizer == BASELINE and one.steps is not None), None)


def curves(frame: pd.DataFrame, metric: Metric) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each optimizer's setting: its name; by number of steps the median error, its ends and the cost."""
    ok = frame[frame["status"].isin(MEASURED)]
    for optimizer in _optimizers(ok):
        for _, mine in _by(ok[ok[OPTIMIZER] == optimizer], VARIANT):
            rows = {}
            for steps, group in mine.groupby(STEPS):
                error, cost = _error(group), group.drop_duplicates("id")[metric.column].median()
                if error.n and pd.notna(cost):
                    rows[steps] = (*error[:3], cost)
            if rows:
                columns = ["median", "low", "high", "cost"]
                yield optimizer, pd.DataFrame(rows.values(), columns=columns, index=list(rows))


def _reached(frame: pd.DataFrame, problem: str, family: str, optimizer: str, target: float) -> Reached:
    """The cheapest of the settings that were swept, each at its first K."""
    mine = frame[(frame["problem"] == problem) & (frame[FAMILY] == family) & (frame[OPTIMIZER] == optimizer)]
    head = (problem, family, optimizer, target)
    if mine.empty:
        return Reached(*head, None, None, mine, "not measured with it")
    found, best = [], (np.inf, 0)
    for _, variant in _by(mine[mine["status"].isin(MEASURED)], VARIANT):
        for steps, group in variant.groupby(STEPS, sort=True):
            error = _error(group)
            if error.n:
                best = min(best, (error.median, int(str(steps))))
            if error.n and error.median < target:
                found.append(Reached(*head, int(str(steps)), error, group.drop_duplicates("id")))
                break
    if found:
        return fastest(found) or found[0]
    if np.isfinite(best[0]):
        return Reached(*head, None, None, mine, f"does not reach it: {100 * best[0]:.2g} % at K = {best[1]}")
    reasons = mine["missing.implicit"].dropna().tolist() + mine["reason"].dropna().tolist()
    return Reached(*head, None, None, mine, f"has no error: {reasons[0]}" if reasons else "has no error")


def _error(rows: pd.DataFrame) -> stats.Interval:
    return stats.hierarchical(rows[ERROR.column].to_numpy(dtype=float), rows["seed"].to_numpy(dtype=float))


def _optimizers(frame: pd.DataFrame) -> list[str]:
    there = frame[OPTIMIZER].dropna().unique().tolist()
    return [o for o in OPTIMIZERS if o in there] + sorted(set(there) - set(OPTIMIZERS))


def _by(frame: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    return [(str(value), frame[frame[column] == value]) for value in frame[column].dropna().unique()]
