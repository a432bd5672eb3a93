"""What the budget left out of a study: cells of its plan without a record, declined or ended by a limit."""

from dataclasses import dataclass, field

import pandas as pd

from analysis import table, units

STATUSES = ("declined", "timed_out", "killed", "out_of_memory")
_WORDS = {
    "declined": "declined",
    "timed_out": "ended by the time limit",
    "killed": "killed",
    "out_of_memory": "out of memory",
}


@dataclass(frozen=True)
class Plan:
    """What a study's file asks for against what is stored.

    ``cells`` are asked for; ``missing`` of them, id and label, have no record; ``unasked`` records belong to
    no cell. ``time_limit`` is in seconds a cell.
    """

    cells: int
    time_limit: float
    missing: list[tuple[str, str]] = field(default_factory=list)
    unasked: int = 0


def words(frame: pd.DataFrame, plan: Plan | None) -> list[str]:
    """The sentences on it; all counts are of cells."""
    cells = table.cells(frame)
    said = []
    if plan is not None:
        recorded = plan.cells - len(plan.missing)
        some = f"Of {plan.cells:,} cells of the plan {recorded:,} have a record; the others were not run."
        said.append(some if plan.missing else f"All {plan.cells:,} cells of the plan have a record.")
    counts = cells["status"].value_counts()
    ended = [f"{counts[status]:,} {_WORDS[status]}" for status in STATUSES if status in counts]
    said.append(
        f"Of the cells with a record {', '.join(ended)}: the reasons are below."
        if ended
        else "No cell was declined, ended by a limit of time or memory, or killed."
    )
    limit = "" if plan is None else f" of the {_span(plan.time_limit)} that a cell may take"
    total, slowest = _span(cells["seconds"].sum()), _span(cells["seconds"].max())
    said.append(f"The cells took {total} of one worker's time, the slowest {slowest}{limit}.")
    if plan is not None and plan.unasked:
        said.append(f"{plan.unasked:,} records that no cell of the study file asks for are not on this page.")
    return said


def _span(seconds: float) -> str:
    return units.seconds(seconds) if seconds < 120 else f"{seconds / 60:.1f} min"
