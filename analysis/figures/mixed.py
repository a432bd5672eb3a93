"""The meta-gradient's error with parts of it in another precision: a row of dots for each."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import dots, grid, table
from analysis.metrics import ERRORS, ROUNDING

SHOWS = (
    "Relative l2 error of the meta-gradient to the exact implicit gradient, and where certified the "
    "part of it that is rounding. A row is a method with its parts; the dtype at its end is that of the "
    "inputs and of every part that has none of its own."
)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Figures of three problems each."""
    found = grid.measured(frame, [ERRORS["implicit"], ROUNDING]) or [ERRORS["implicit"]]
    return dots.per_method(table.with_axes(frame), found)
