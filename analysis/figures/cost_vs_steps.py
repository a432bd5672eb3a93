"""What a meta-gradient costs against the number of inner steps (the paper's Figure 2b, widened)."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis import answers, grid
from analysis.metrics import COSTS


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return grid.shows(frame, COSTS)


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return answers.cost(frame)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Figures of three problems each; measures that no cell has are left out."""
    return grid.over_steps(frame, COSTS)
