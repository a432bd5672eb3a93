"""The meta-gradient across the edge of stability: its growth with inner steps, what is not finite, its angle.

A step of gradient descent of size a multiplies what lies along an eigenvector of the Hessian of G by
1 - a h, and so does the same step of the way back. With L the largest eigenvalue it shortens everything while
a L < 2, on a convex G: the edge of stability. L is taken at theta, where it is known before the first step.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import stats, style, table
from analysis.metrics import COSINES, ERRORS
from analysis.stats import Share, wilson

EDGE, WIDTH = 2.0, 0.01  # "at the edge" is that close to it, relative
UNSTABLE = 10.0  # growth from the fewest to the most inner steps
SIDES = ("below", "at", "above")
BANDS = ("below 1", "1 to 2", "2", "2 to 3", "above 3")  # of the inner step times L
TIMES_CURVATURE, SIDE, BAND = "edge.times_curvature", "edge.side", "edge.band"
NORM, GROWTH, BACK, FINITE = "edge.norm", "edge.growth", "edge.back", "edge.finite"
COSINE, ERROR = COSINES["implicit"].column, ERRORS["maml"].column
MAML, FOMAML = "maml", "fomaml"
_CURVATURE, _RATE = "assumptions.start.largest", "method.inner.learning_rate"
_TASK = ["problem", "n_tasks", "seed", "task"]


class Answer(NamedTuple):
    """A median with its interval, of ``n`` values: of ``tasks`` tasks in ``seeds`` seeds."""

    found: stats.Interval
    tasks: int
    seeds: int


def measured(frame: pd.DataFrame) -> pd.DataFrame:
    """A row for each task of the cells that gave a meta-gradient, finite or not, whose curvature is known.

    ``method`` is without the inner step size. `TIMES_CURVATURE` is a L; `NORM` of the meta-gradient, infinite
    where it is not `FINITE`; `GROWTH` that to the norm with the fewest inner steps; `BACK` the norm to that
    of first-order MAML, which has the same query gradient and no way back.
    """
    if _CURVATURE not in frame or _RATE not in frame:
        return frame.iloc[:0]
    known = frame[frame[_CURVATURE].notna()].drop_duplicates(_TASK).set_index(_TASK)[_CURVATURE]
    here = frame[frame["meta_grad_sha256"].notna() & frame["task"].notna()] if len(known) else frame.iloc[:0]
    if here.empty:
        return here
    here = here.join(known.rename("edge.curvature"), on=_TASK)
    small, inside, edge, outside, far = BANDS
    times = here[_RATE].astype(float) * here["edge.curvature"]
    at, finite = abs(times / EDGE - 1) <= WIDTH, here["meta_grad_norm"].notna()
    here = here.assign(
        **{
            "method": here["method"].str.replace(r", learning rate [^,]+", "", regex=True),
            TIMES_CURVATURE: times,
            SIDE: np.select([at, times < EDGE], ["at", "below"], "above"),
            BAND: np.select([at, times < 1, times < EDGE, times <= 3], [edge, small, inside, outside], far),
            FINITE: finite,
            NORM: here["meta_grad_norm"].where(finite, np.inf),
        }
    )
    here = here[here[TIMES_CURVATURE].notna() & here[table.STEPS].notna()]
    same = [*_TASK, "dtype", _RATE]
    fewest = here[here[table.STEPS] == here[table.STEPS].min()]
    here = _over(here, fewest, [*same, "method"], GROWTH)
    return _over(here, here[here["method.name"] == FOMAML], [*same, table.STEPS], BACK)


def _over(here: pd.DataFrame, others: pd.DataFrame, by: list[str], name: str) -> pd.DataFrame:
    """With `NORM` to that of the row of ``others`` that has the same ``by``; NaN where that is not finite."""
    base = others.drop_duplicates(by).set_index(by)[NORM].rename("base")
    base = here[by].join(base, on=by)["base"]
    return here.assign(**{name: here[NORM] / base.where(np.isfinite(base))})


def first_dtype(here: pd.DataFrame) -> pd.DataFrame:
    """The rows in float32 where there are any, else those of the first dtype."""
    dtypes = list(style.dtypes(here["dtype"]))
    dtype = "float32" if "float32" in dtypes else next(iter(dtypes), None)
    return here[here["dtype"] == dtype]


def widest(here: pd.DataFrame) -> pd.DataFrame:
    """Of each problem the rows in its widest dtype: what overflows in float32 may be finite there."""
    ranks = here["dtype"].map({name: i for i, name in enumerate(style.DTYPES)})
    return here[ranks == ranks.groupby(here["problem"]).transform("min")]


def longest(here: pd.DataFrame) -> pd.DataFrame:
    """The rows with the most inner steps."""
    return here[here[table.STEPS] == here[table.STEPS].max()]


def of(here: pd.DataFrame, method: str, side: str | None = None) -> pd.DataFrame:
    """The rows of a plugin's name on a side of the edge."""
    mine = here[here["method.name"] == method]
    return mine if side is None else mine[mine[SIDE] == side]


def median(here: pd.DataFrame, column: str) -> Answer:
    """The median of ``column`` over tasks and inner step sizes, bootstrapped over seeds, then rows."""
    known = here[here[column].notna()]
    found = stats.hierarchical(known[column].to_numpy(dtype=float), known["seed"].to_numpy())
    return Answer(found, len(known.drop_duplicates(_TASK)), int(known["seed"].nunique()))


def not_finite(here: pd.DataFrame) -> Share:
    """The share of rows whose meta-gradient is not finite."""
    return wilson(int((~here[FINITE]).sum()), len(here))


def foretold(here: pd.DataFrame) -> Share:
    """Of exact MAML's rows below and above the edge: whether it grows `UNSTABLE` above and only there."""
    mine = of(here, MAML)
    mine = mine[(mine[SIDE] != "at") & mine[GROWTH].notna()]
    right = (mine[GROWTH] > UNSTABLE) == (mine[SIDE] == "above")
    return wilson(int(right.sum()), len(mine))


def overflows(here: pd.DataFrame) -> Share | None:
    """Of exact MAML's tasks that are not finite in float32, those that are in float64; None without both."""
    by = [*_TASK, _RATE, table.STEPS]
    mine = of(here, MAML)
    wide, narrow = (mine[mine["dtype"] == d].set_index(by) for d in ("float64", "float32"))
    lost = narrow[~narrow[FINITE]]
    both = lost.index.intersection(wide.index)
    return wilson(int(wide.loc[both, FINITE].sum()), len(both)) if len(wide) and len(narrow) else None


def points(here: pd.DataFrame, by: str, column: str) -> pd.DataFrame:
    """By ``by``, sorted: median, low and high of ``column``."""
    groups = {x: median(group, column).found for x, group in here.groupby(by, sort=True)}
    found = pd.DataFrame.from_dict(groups, orient="index", columns=list(stats.Interval._fields))
    return found[found["n"] > 0]
