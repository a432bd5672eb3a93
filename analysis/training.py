"""The training part of a record as columns, and what outer optimizers are called.

A training cell has a row for each evaluation: ``evaluation.step split n_tasks``, and of the query loss and
accuracy over its tasks the mean ``evaluation.K`` (K = ``loss``, ``accuracy``), the standard deviation
``evaluation.K_deviation`` and half the width of the mean's 95 % interval, ``evaluation.K_half_width``. On
each of them the cell's ``test.loss`` and ``test.accuracy``, at the end and on tasks of the test split,
``train.seconds_per_step`` and ``train.file``.
"""

from typing import Any

import pandas as pd

from analysis import labels
from bench.spec import TRAIN

KINDS = ("loss", "accuracy")
OUTER = "outer"  # the outer optimizer as figures call it
TEXT = ("evaluation.split", "train.file")
WHOLE = ("evaluation.step", "evaluation.n_tasks")
NUMBERS = (*WHOLE, "train.seconds_per_step")
NUMBERS += tuple(f"evaluation.{kind}{end}" for kind in KINDS for end in ("", "_deviation", "_half_width"))
TESTS = tuple(f"test.{kind}" for kind in KINDS)
_LENGTHS = ("outer_steps", "evaluation_tasks", "validations", "validation_tasks")


def rows(training: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict of columns for each evaluation; none of a cell that did not train."""
    if not training:
        return []
    file = training.get("file") or {}
    whole = {"train.seconds_per_step": training["seconds_per_step"], "train.file": file.get("name")}
    for one in training["evaluations"]:
        if one["split"] == "test":
            whole |= {f"test.{kind}": one[kind]["mean"] for kind in KINDS if one[kind]}
    return [whole | _columns(one) for one in training["evaluations"]]


def _columns(evaluation: dict[str, Any]) -> dict[str, Any]:
    found = {f"evaluation.{key}": evaluation[key] for key in ("step", "split", "n_tasks")}
    for kind in KINDS:
        summary = evaluation[kind] or {}
        found |= {
            f"evaluation.{kind}{end}": summary.get(key)
            for end, key in (("", "mean"), ("_deviation", "deviation"), ("_half_width", "half_width"))
        }
    return found


def outers(descriptions: list[dict[str, Any]], problems: list[str]) -> list[str | None]:
    """What each cell's outer optimizer is called, told apart within its problem; None of a cell without."""
    which = [i for i, one in enumerate(descriptions) if OUTER in one]
    tables = [descriptions[i][OUTER] for i in which]
    flat = [
        labels.flatten(table) | {key: descriptions[i].get(key) for key in _LENGTHS}
        for i, table in zip(which, tables, strict=True)
    ]
    names = labels.distinguish([labels.pretty(t["name"]) for t in tables], flat, [problems[i] for i in which])
    found: list[str | None] = [None] * len(descriptions)
    for i, name in zip(which, names, strict=True):
        found[i] = name
    return found


def trainings(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of training cells, with all columns of `rows`; ``method`` is without the outer optimizer."""
    found = frame[frame["passes"] == TRAIN] if "passes" in frame else frame.iloc[:0]
    found = found.reindex(columns=list(dict.fromkeys([*found.columns, *NUMBERS, *TEXT])))
    pairs = zip(found["method"], found[OUTER], strict=True)
    return found.assign(method=[str(m).removesuffix(f", {outer}") for m, outer in pairs])
