"""The meta-gradient's error against the scale of the inputs, in each precision."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis import facets, grid, labels, numerical
from analysis.metrics import ERRORS, OWN_ROUNDING, listed
from analysis.numerical import SCALE
from analysis.verdict import Verdict

METRICS = (ERRORS["implicit"], ERRORS["maml"], OWN_ROUNDING)


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    measures = listed(grid.measured_or_first(frame, METRICS))
    return (
        "Of each method, against the factor that all inputs are multiplied by, a curve for each dtype: "
        f"{measures}. Columns: methods. One figure for each problem."
    )


def verdicts(frame: pd.DataFrame) -> list[tuple[str, list[Verdict]]]:
    """The answer in words."""
    return [("", numerical.data_scale(frame.assign(**{SCALE: _scale(frame)})))]


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem, whatever its scale."""
    frame = frame.assign(**{SCALE: _scale(frame)})
    figures = []
    for name in frame["problem.name"].unique():
        here = frame[frame["problem.name"] == name]
        rows = facets.measures(here, METRICS)
        columns = facets.by(here, "method")
        title, metric = labels.pretty(name), ERRORS["implicit"]
        figures.append(facets.over(here, SCALE, "scale of the inputs", rows, columns, title, metric))
    return figures


def _scale(frame: pd.DataFrame) -> pd.Series:
    """Descriptions leave it out where it is 1."""
    known = frame[SCALE] if SCALE in frame else pd.Series(pd.NA, index=frame.index)
    return pd.to_numeric(known).astype("float64").fillna(1.0)
