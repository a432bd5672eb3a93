"""How the unrolled derivative nears the implicit one, or first moves away from it, by the inner step."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis import facets, numerical, table
from analysis.metrics import ERRORS
from analysis.numerical import RATE
from analysis.verdict import Verdict


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        "Relative l2 error of the meta-gradient to the exact implicit gradient against the number of inner "
        "steps K, a curve for each dtype: where the curves coincide it is not rounding. Rows: exact MAML, "
        "and MAML unrolled from a later step on. Columns: the inner learning rate. One figure for each "
        "problem."
    )


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer in words."""
    return [("", numerical.unrolling(frame))]


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem; the panels of a row share their scale."""
    figures = []
    for problem in frame["problem"].unique():
        here = frame[frame["problem"] == problem]
        here = here.assign(method=_without_rate(here))
        rows, columns = facets.by(here, "method"), facets.by(here, RATE, "inner step {}")
        figures.append(
            facets.over(here, table.STEPS, "inner steps K", rows, columns, problem, ERRORS["implicit"])
        )
    return figures


def _without_rate(frame: pd.DataFrame) -> pd.Series:
    """Labels without what the columns of panels say."""
    return frame["method"].str.replace(r", learning rate [^,]+", "", regex=True)
