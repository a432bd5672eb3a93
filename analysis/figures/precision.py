"""The meta-gradient's error against inner steps in each precision, and how much of it is rounding."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import facets, table
from analysis.metrics import ERRORS, ROUNDING, TRUNCATION

SHOWS = (
    "Relative l2 error of each method's meta-gradient against the number of inner steps K, a curve for "
    "each dtype. Rows: error to the exact implicit gradient; its two parts where certified (distance to "
    "the result in exact arithmetic, and from there to the reference); error to exact MAML. Columns: "
    "methods. One figure for each problem."
)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem; the panels of a row share their scale."""
    figures = []
    for problem in frame["problem"].unique():
        here = frame[frame["problem"] == problem]
        rows = facets.measures(here, [ERRORS["implicit"], ROUNDING, TRUNCATION["implicit"], ERRORS["maml"]])
        columns, x = facets.by(here, "method"), table.STEPS
        figures.append(facets.over(here, x, "inner steps K", rows, columns, problem, ERRORS["implicit"]))
    return figures
