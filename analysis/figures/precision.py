"""The meta-gradient's error against inner steps in each precision, and how much of it is rounding."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis import facets, grid, numerical, table
from analysis.metrics import ERRORS, ROUNDING, TRUNCATION, listed
from analysis.verdict import Verdict

PARTS = " Rounding and truncation are proven upper bounds, relative to the exact gradient as the error is."
METRICS = (ERRORS["implicit"], ROUNDING["implicit"], TRUNCATION["implicit"], ERRORS["maml"])


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    measures = listed(grid.measured_or_first(frame, METRICS))
    text = (
        "Of each method, against the number of inner steps K, a curve for each dtype: "
        f"{measures}. Columns: methods. One figure for each problem."
    )
    return text + (PARTS if frame[ROUNDING["implicit"].column].notna().any() else "")


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer in words."""
    return [("", numerical.precision(frame))]


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem; the panels of a row share their scale."""
    figures = []
    for problem in frame["problem"].unique():
        here = frame[frame["problem"] == problem]
        rows = facets.measures(here, METRICS)
        columns, x = facets.by(here, "method"), table.STEPS
        figures.append(facets.over(here, x, "inner steps K", rows, columns, problem, ERRORS["implicit"]))
    return figures
