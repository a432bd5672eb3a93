"""Other libraries next to ours: error, time and memory of each, a row of dots per method."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import dots, grid, table
from analysis.metrics import ERRORS, RATIO, RESIDENT, TENSOR_BYTES

SHOWS = (
    "Each library's meta-gradient next to ours, a row per method: relative error to exact K-step MAML and to "
    "the exact implicit gradient, time as a multiple of first-order MAML's, peak of tensor bytes, and growth "
    "of the resident peak of a fresh process. One figure for each problem."
)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem."""
    named = table.with_axes(frame)
    wanted = [ERRORS["maml"], ERRORS["implicit"], RATIO, TENSOR_BYTES, RESIDENT]
    metrics = grid.measured(named, wanted) or wanted[:1]
    problems = named["problem"].unique()
    return [f for p in problems for f in dots.per_method(named[named["problem"] == p], metrics)]
