"""Other libraries next to ours: error, time and memory of each, a row of dots per method."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis import answers, dots, grid, table
from analysis.metrics import ERRORS, RATIO, RESIDENT, TENSOR_BYTES, Metric, listed

WANTED = (ERRORS["maml"], ERRORS["implicit"], RATIO, TENSOR_BYTES, RESIDENT)


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return (
        f"Each library's meta-gradient next to ours, a line for each method: {listed(_metrics(frame))}. One "
        "figure for each problem."
    )


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return answers.agreement(frame)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """One figure for each problem."""
    named, metrics = table.with_axes(frame), _metrics(frame)
    problems = named["problem"].unique()
    return [f for p in problems for f in dots.per_method(named[named["problem"] == p], metrics)]


def _metrics(frame: pd.DataFrame) -> list[Metric]:
    return grid.measured_or_first(frame, WANTED)
