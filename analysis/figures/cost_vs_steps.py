"""What a meta-gradient costs against the number of inner steps (the paper's Figure 2b, widened)."""

import pandas as pd
from matplotlib.figure import Figure

from analysis import grid
from analysis.metrics import COSTS

SHOWS = (
    "Cost of one meta-gradient of the whole batch of tasks against the number of inner steps K. Rows: wall "
    "time, peak of the tensor bytes above what existed before the call, growth of the resident peak of a "
    "fresh process, and oracle calls per task (gradients plus Hessian-vector products). Columns: problems."
)


def draw(frame: pd.DataFrame) -> list[Figure]:
    """Figures of three problems each; measures that no cell has are left out."""
    return grid.over_steps(frame, COSTS)
