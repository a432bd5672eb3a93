"""The meta-gradient's error against the scale of the inputs, in each precision."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import facets, labels
from analysis.metrics import ERRORS, ROUNDING

SCALE = "problem.input_scale"
SHOWS = (
    "Relative l2 error of each method's meta-gradient against the factor that all inputs are multiplied "
    "by, a curve for each dtype. Rows: error to the exact implicit gradient, to exact MAML of the same "
    "inner steps, and where certified the part of it that is rounding. Columns: methods. One figure for "
    "each problem."
)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem, whatever its scale."""
    frame = frame.assign(**{SCALE: _scale(frame)})
    figures = []
    for name in frame["problem.name"].unique():
        here = frame[frame["problem.name"] == name]
        rows = facets.measures(here, [ERRORS["implicit"], ERRORS["maml"], ROUNDING])
        columns = facets.by(here, "method")
        title, metric = labels.pretty(name), ERRORS["implicit"]
        figures.append(facets.over(here, SCALE, "scale of the inputs", rows, columns, title, metric))
    return figures


def _scale(frame: pd.DataFrame) -> pd.Series:
    """Descriptions leave it out where it is 1."""
    known = frame[SCALE] if SCALE in frame else pd.Series(pd.NA, index=frame.index)
    return pd.to_numeric(known).astype("float64").fillna(1.0)
