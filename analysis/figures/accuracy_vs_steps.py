"""Relative error of the meta-gradient against the number of inner steps (the paper's Figure 2a, widened)."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis import answers, grid
from analysis.metrics import ERRORS

METRICS = (ERRORS["implicit"], ERRORS["maml"])


def shows(frame: pd.DataFrame, drawn: Collection[str]) -> str:
    """In words."""
    return grid.shows(frame, METRICS)


def answer(frame: pd.DataFrame) -> str:
    """In a sentence."""
    return answers.accuracy(frame)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Figures of three problems each."""
    return grid.over_steps(frame, METRICS)
