"""What `metabench show` says of a training: its curve, its test, where the meta-parameters lie."""

from pathlib import Path
from statistics import fmean
from typing import Any

from bench.cli.text import columns, number
from bench.record import Record
from bench.record.trained import file_of, missing
from bench.spec import STAGES

DIGITS = 4


def curve_lines(training: dict[str, Any]) -> list[str]:
    """A row for each validation; beside it the training's own losses and norms since the one before."""
    validations = [one for one in training["evaluations"] if one["split"] == "val"]
    classifies = any(one["accuracy"] for one in validations)
    rows: list[tuple[str, ...]] = [
        ("step", "training loss", "|meta-gradient|", "val loss", *["val accuracy"] * classifies)
    ]
    before = 0
    for one in validations:
        since = [i for i, step in enumerate(training["curve"]["step"]) if before < step <= one["step"]]
        means = (_mean([training["curve"][key][i] for i in since]) for key in ("loss", "norm"))
        found = [_interval(one[kind]) for kind in ("loss", "accuracy")[: 1 + classifies]]
        rows.append((str(one["step"]), *(number(mean, DIGITS) for mean in means), *found))
        before = one["step"]
    return columns(rows)


def test_lines(training: dict[str, Any]) -> list[str]:
    """Loss and accuracy at the end, on the tasks of other classes."""
    rows = []
    for one in training["evaluations"]:
        if one["split"] == "test":
            rows.append(("loss", f"{_interval(one['loss'])} on {one['n_tasks']} tasks"))
            if one["accuracy"]:
                rows.append(("accuracy", _interval(one["accuracy"])))
    if training["seconds_per_step"] is not None:
        rows.append(("a step took", f"{number(training['seconds_per_step'])} s"))
    return columns(rows)


def file_lines(folder: Path, record: Record) -> list[str]:
    """The file of the meta-parameters, and whether it is what the record says."""
    path = file_of(folder, record)
    if path is None:
        return []
    wrong = missing(folder, record)
    return columns(
        [
            ("file", f"{path}{f' {wrong}' if wrong else ''}"),
            ("stages", f"{', '.join(STAGES)}: arrays stage.NAME, to be read by numpy.load"),
        ]
    )


def _interval(summary: dict[str, float | None]) -> str:
    """A mean with half the width of its 95 % interval."""
    return f"{number(summary['mean'], DIGITS)} ± {number(summary['half_width'], 2)}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
