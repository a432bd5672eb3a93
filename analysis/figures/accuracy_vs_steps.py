"""Relative error of the meta-gradient against the number of inner steps (the paper's Figure 2a, widened)."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import grid
from analysis.metrics import ERRORS

SHOWS = (
    "Relative l2 error of each method's meta-gradient against the number of inner steps K. Rows: error to "
    "the exact implicit gradient (at the inner minimiser) and to the exact MAML gradient through the same K "
    "steps. Columns: problems."
)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Figures of three problems each."""
    return grid.over_steps(frame, [ERRORS["implicit"], ERRORS["maml"]])
