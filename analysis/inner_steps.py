"""iMAML's own sweep: where more inner steps stop paying, which iterations of CG are the limit, and accuracy.

Errors are compared on the same tasks, as ratios; accuracies of trained meta-parameters within seeds.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import learning, stats, style, table
from analysis.labels import pretty
from analysis.metrics import ERRORS, TESTS
from analysis.stats import Share, wilson

RESAMPLES = 200
CLOSE = 1.1  # an error so much above another, or less, is as small as it
TINY = 1e-7  # an error below float32's rounding: none
IMAML = "imaml"
DATA, STRENGTH, CG = "data", "problem.strength", "method.linear.iterations"
IMPLICIT, MAML = ERRORS["implicit"].column, ERRORS["maml"].column
ACCURACY = TESTS["accuracy"].column
_PAIR = [DATA, STRENGTH, "seed", "task"]


class Settled(NamedTuple):
    """The fewest ``steps`` from which on the error is at most `CLOSE` times that with the ``most``.

    ``low`` and ``high`` bound them, by a bootstrap over seeds, then tasks; ``error`` is that with the most.
    """

    steps: int
    low: int
    high: int
    most: int
    error: stats.Interval


class Nearer(NamedTuple):
    """Shares of tasks that are nearer to the implicit gradient, and to exact MAML, by `CLOSE`."""

    implicit: Share
    maml: Share


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """The tasks of iMAML with CG that have an error to a reference, converged or not, with `DATA`."""
    if CG not in frame:
        return frame.iloc[:0].assign(**{DATA: "", STRENGTH: 0.0, CG: 0})
    here = frame[(frame["method.name"] == IMAML) & frame[CG].notna() & frame[table.STEPS].notna()]
    here = here[here["task"].notna() & (here[IMPLICIT].notna() | here[MAML].notna())]
    return here.assign(**{DATA: here["problem.name"].map(pretty), CG: here[CG].astype(int)})


def settled(here: pd.DataFrame) -> Settled | None:
    """Where the error to the implicit gradient stops falling, of one problem, lambda and CG."""
    errors = _wide(here, table.STEPS)
    steps = numbers(errors)
    if len(steps) < 2 or errors.empty:
        return None
    logs = np.log(errors.to_numpy() / errors[[steps[-1]]].to_numpy())
    seeds = errors.index.get_level_values("seed").to_numpy()
    rows = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    rng = np.random.default_rng(stats.SEED)
    ends = []
    for _ in range(RESAMPLES):
        drawn = [rows[i] for i in rng.integers(len(rows), size=len(rows))]
        ends.append(_fewest(logs[np.concatenate([rng.choice(one, len(one)) for one in drawn])]))
    low, high = np.quantile(ends, [(1 - stats.LEVEL) / 2, (1 + stats.LEVEL) / 2], method="nearest")
    last = here[(here[table.STEPS] == steps[-1]) & here[IMPLICIT].notna()]
    error = stats.hierarchical(last[IMPLICIT].to_numpy(float), last["seed"].to_numpy())
    return Settled(steps[_fewest(logs)], steps[low], steps[high], steps[-1], error)


def _fewest(logs: np.ndarray) -> int:
    """The column of ``logs`` [tasks, K], of ratios, from which on the median is at most `CLOSE`."""
    above = np.flatnonzero(np.median(logs, axis=0) > np.log(CLOSE))
    return int(above[-1]) + 1 if len(above) else 0


def to_most_iterations(here: pd.DataFrame) -> dict[int, stats.Interval]:
    """For each number of iterations of CG its error, with the most steps, to that with the most iterations.

    On the same tasks; ``here`` may be of several problems.
    """
    errors = _wide(longest(here), CG)
    iterations = numbers(errors)
    return {n: _interval(errors[n] / errors[iterations[-1]]) for n in iterations}


def enough_iterations(here: pd.DataFrame) -> int | None:
    """The fewest iterations of CG from which on more make the error with the most steps no smaller."""
    found = None
    for n, ratio in reversed(to_most_iterations(here).items()):
        if not ratio.median <= CLOSE:
            break
        found = n
    return found


def longest(here: pd.DataFrame) -> pd.DataFrame:
    """The rows of each problem with its most inner steps."""
    return here[here[table.STEPS] == here.groupby([DATA, STRENGTH])[table.STEPS].transform("max")]


def nearer(here: pd.DataFrame) -> Nearer:
    """Of the tasks that have both references; where both errors are `TINY`, the references are the same."""
    known = here[here[IMPLICIT].notna() & here[MAML].notna()]
    implicit, maml = (known[column].clip(lower=TINY) for column in (IMPLICIT, MAML))
    n = len(known)
    return Nearer(
        wilson(int((implicit * CLOSE < maml).sum()), n), wilson(int((maml * CLOSE < implicit).sum()), n)
    )


def points(here: pd.DataFrame, column: str) -> pd.DataFrame:
    """Median error, its interval and n by inner steps."""
    found = {
        k: stats.hierarchical(group[column].to_numpy(float), group["seed"].to_numpy())
        for k, group in here.groupby(table.STEPS, sort=True)
    }
    made = pd.DataFrame.from_dict(found, orient="index", columns=list(stats.Interval._fields))
    return made[made["n"] > 0]


def trained(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each training that ended well: `DATA`, lambda, method, K, seed and its test accuracy."""
    found = learning.runs(frame) if len(frame) else frame
    found = found.drop_duplicates("id")
    found = found[(found["status"] == "ok") & found[ACCURACY].notna() & found[table.STEPS].notna()]
    return found.assign(**{DATA: found["problem.name"].map(pretty)})


def by_steps(here: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of every seed (rows) by K (columns), of one problem, lambda and method."""
    made = here.pivot_table(index="seed", columns=table.STEPS, values=ACCURACY, aggfunc="mean").astype(float)
    return made.set_axis(numbers(made), axis=1)


def gain(accuracies: pd.DataFrame, few: int, many: int) -> stats.Mean:
    """By how much the accuracy with ``many`` steps is above that with ``few``, over seeds that have both."""
    return stats.student((accuracies[many] - accuracies[few]).dropna().to_numpy())


def enough_steps(accuracies: pd.DataFrame) -> tuple[int, int | None]:
    """K with the best mean accuracy, and the fewest steps that it is not certainly better than.

    None where a single seed makes nothing certain.
    """
    steps = numbers(accuracies)
    best = steps[int(np.argmax(accuracies.mean().to_numpy()))]
    if len(accuracies) < 2:
        return best, None
    return best, next(k for k in steps if k == best or not gain(accuracies, k, best).low > 0)


def numbers(wide: pd.DataFrame) -> list[int]:
    """The columns, which are whole numbers."""
    return [int(str(k)) for k in wide.columns]


def ordered(values: pd.Series) -> list[str]:
    """Problems as in every figure."""
    return sorted(values.unique(), key=style.problem_rank)


def _wide(here: pd.DataFrame, by: str) -> pd.DataFrame:
    """Errors to the implicit gradient by task (rows) and ``by`` (columns), where all columns have one."""
    made = here.pivot_table(index=_PAIR, columns=by, values=IMPLICIT, aggfunc="median")
    made = made.dropna().clip(lower=TINY)
    return made.set_axis(numbers(made), axis=1)


def _interval(values: pd.Series) -> stats.Interval:
    return stats.hierarchical(values.to_numpy(float), values.index.get_level_values("seed").to_numpy())
