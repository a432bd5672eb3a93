"""What a reader takes from the page: tables as links that carry them, first those that a verdict rests on."""

import base64
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import learning, metrics, rounding, table, units
from analysis.training import trainings
from analysis.verdict import Verdict
from bench.spec import TRAIN

PLAIN = 200_000  # bytes of CSV up to which a table goes into the page as it is; beyond, compressed
CSV_LIMIT = 1_000_000  # bytes of a table, compressed where it is, that still goes into the page
_OF_RUNS = ("problem", "method", learning.OUTER, "seed", "status", "evaluation.step", "evaluation.split")
_OF_RUNS += ("evaluation.n_tasks", "evaluation.loss", "evaluation.accuracy")


@dataclass(frozen=True)
class Link:
    """A table to download: file name, what it holds, its size; no ``source`` where it is too large."""

    name: str
    what: str
    size: str
    source: str


def link(name: str, what: str, frame: pd.DataFrame) -> Link:
    """``frame`` as CSV in a link; as ``NAME.gz`` where it is large, the same bytes for the same table."""
    content, kind = frame.to_csv(index=False).encode(), "text/csv"
    size = units.nbytes(len(content))
    if len(content) > PLAIN:
        content, kind, name = gzip.compress(content, mtime=0), "application/gzip", f"{name}.gz"
        size += f", compressed to {units.nbytes(len(content))}"
    if len(content) > CSV_LIMIT:
        return Link(name, what, size, "")
    return Link(name, what, size, f"data:{kind};base64,{base64.b64encode(content).decode()}")


def of_verdict(
    study: str, own: Any, frame: pd.DataFrame, verdicts: Iterable[tuple[str, list[Verdict]]]
) -> list[Link]:
    """The sentences of a verdict, and the tables that their numbers are read from.

    Those of ``evidence(frame)`` of the study's figure module. Of one with its own verdict, else its tables
    as they are shown; of any other one also the medians with their intervals, and evaluations of trainings.
    """
    links = [link(f"{study}-verdict.csv", "the verdict's sentences", sentences(verdicts))]
    found = own.evidence(frame) if hasattr(own, "evidence") else {}
    if not hasattr(own, "verdicts"):
        found = _usual(frame) | found
    elif not found and hasattr(own, "tables"):
        found = {"table": flattened(own.tables(frame))}
    return links + [link(f"{study}-{name}.csv", name, some) for name, some in found.items() if len(some)]


def sentences(verdicts: Iterable[tuple[str, list[Verdict]]]) -> pd.DataFrame:
    """One row for each sentence of a verdict."""
    rows = [
        (one.problem, one.setting, item.term, item.methods, item.text.strip())
        for _, some in verdicts
        for one in some
        for item in one.items
    ]
    return pd.DataFrame(rows, columns=["problem", "setting", "term", "methods", "text"])


def flattened(tables: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The tables of a page as one, each value with its interval in a column of its own, as texts."""
    rows = []
    for one in tables:
        first, heads = one.get("first", "method"), list(one["heads"])
        for row in one["rows"]:
            cells: dict[str, Any] = {"problem": one["problem"], first: row["method"]}
            cells |= dict(zip(heads, row["axes"], strict=False))
            for head, (text, interval) in zip(heads[len(row["axes"]) :], row["values"], strict=False):
                cells[head] = text
                if interval:
                    cells[f"{head}, interval"] = interval
            rows.append(cells | {"n": row["n"], "failed": row["failed"]})
    return pd.DataFrame(rows)


def _usual(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {}
    measured = frame[frame["passes"] != TRAIN]
    if len(measured):
        medians = table.summary(measured)
        known = [m.column for m in metrics.SUMMARY if medians[m.column].notna().any()]
        ends = ("", ".low", ".high", ".n")
        columns = {f"{m.column}{end}" for m in metrics.SUMMARY for end in ends}
        kept = {f"{column}{end}" for column in known for end in ends}
        found["medians"] = medians[[c for c in medians.columns if c not in columns or c in kept]]
        if shares := _rounding(table.with_axes(measured)):
            found["rounding"] = pd.concat(shares, ignore_index=True)
    if len(runs := trainings(frame)):
        tests = [m.column for m in metrics.TESTS.values() if runs[m.column].notna().any()]
        found["evaluations"] = runs[[c for c in (*_OF_RUNS, *tests) if c in runs]]
    return found


def _rounding(frame: pd.DataFrame) -> list[pd.DataFrame]:
    known = frame[frame["method.name"].isin(rounding.METHODS)]
    found = []
    for (problem, method), mine in known.groupby(["problem", "method"], sort=False):
        points = rounding.over_steps(mine, "implicit").reset_index()
        if len(points):
            found.append(
                pd.DataFrame({"problem": problem, "method": method}, index=points.index).join(points)
            )
    return found
