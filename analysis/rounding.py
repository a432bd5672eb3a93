"""How much of an error is rounding, where the certified pass has told it from truncation.

Of a task, rounding is the distance of the computed result to the one in exact arithmetic, truncation the
distance of that to the reference, both relative. The share of rounding is rounding / (rounding + truncation).
"""

import pandas as pd

from analysis import stats, style, table
from analysis.metrics import ROUNDING, TRUNCATION, Metric

SHARE = Metric("rounding_share", "share of rounding", "rounding", "ratio", True)
NOTHING = 1e-20  # per cent: bounds of what is zero are the smallest floats
METHODS = ("maml", "truncated-maml", "imaml")


def sentences(frame: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Term, method and text for each method of one problem: how its gap splits, by inner steps.

    Labels tell the dtypes apart, as `table.with_axes` has them.
    """
    known = frame[frame["method.name"].isin(METHODS)]
    found = []
    for method in style.ordered(known["method"]):
        points = over_steps(known[known["method"] == method], "implicit")
        parts = [_at(*row) for row in points.reset_index().itertuples(index=False)]
        if parts:
            text = "'s gap to the exact implicit gradient " + "; ".join(parts) + "."
            found.append(("Rounding and truncation", method, text))
    return found


def over_steps(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Median, low and high of the share of rounding (0 to 1) in the gap to ``reference``, by inner steps."""
    rounding, truncation = frame[ROUNDING[reference].column], frame[TRUNCATION[reference].column]
    shares = frame.assign(**{SHARE.column: rounding / (rounding + truncation)})
    points = stats.summarise(shares[shares[table.STEPS].notna()], [table.STEPS], SHARE)
    return points.set_index(table.STEPS).sort_index()[["median", "low", "high"]]


def _at(steps: float, median: float, low: float, high: float) -> str:
    of = f"{steps:g} step{'' if steps == 1 else 's'}"
    return f"at {of} is {percent(median, low, high)} rounding, {_percent(1 - median)} % truncation"


def percent(median: float, low: float, high: float) -> str:
    """A share and its interval as "67 % [64, 83]"."""
    interval = "" if pd.isna(low) or low == high else f" [{_percent(low)}, {_percent(high)}]"
    return f"{_percent(median)} %{interval}"


def _percent(share: float) -> str:
    """To two digits, of whichever of the two shares is the smaller; what no float64 adds to 1 is 0."""
    small = float(f"{100 * min(share, 1 - share):.2g}")
    small = 0.0 if small < NOTHING else small
    return f"{small if share <= 0.5 else 100 - small:.10g}"
