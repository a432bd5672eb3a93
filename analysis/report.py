"""One self-contained HTML page on any number of studies, with contents where there are several.

For each: question, figures, verdict with the tables it rests on, settings, cells, failures, what was left
out. No script, no external resource: the page opens from a file, prints, and reads on a phone.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from tqdm import tqdm

from analysis import captions, downloads, figures, left_out, metrics, reasons, style, table, units, verdict
from analysis.left_out import Plan
from analysis.metrics import Metric
from analysis.pictures import picture
from bench.errors import UsageError
from bench.spec import shipped

if TYPE_CHECKING:
    from bench.spec import Spec

MOST_IDS = 8  # cells named per kind of failure
DIVERGED = 100.0  # the relative error from which a result has left its reference for good
OPEN_ROWS = 40  # a study's summary is unfolded up to so many rows
NO_PLANS: Mapping[str, Plan] = MappingProxyType({})

TERMS = {
    "Relative error": "l2 distance of a method's meta-gradient from the reference, divided by the length of "
    "the reference, for each task.",
    "Exact MAML": "the derivative of the query loss through the same K inner steps, computed in float64.",
    "Exact implicit gradient": "the derivative at the exact minimiser of the inner objective, in float64; it "
    "does not exist where the inner objective has no smooth, strict minimum.",
    "Time": "wall-clock time of one meta-gradient of all tasks of a cell; data are loaded before.",
    "Times FOMAML": "median over rounds of the method's time to that of first-order MAML in the same round "
    "and process; the A/A control is FOMAML's to its own.",
    "Peak tensor bytes": "most bytes of tensors alive at one time during the call, beyond those before it.",
    "Resident growth": "growth of the peak of a fresh process's memory, kernels and allocator included.",
    "Oracle calls": "gradients of inner and outer objective plus Hessian-vector products, per task.",
}


def build(studies: "list[tuple[Spec, list[dict[str, Any]]]]", output: Path, **more: Any) -> Path:
    """Write the page on ``studies``, as `render` makes it, to ``output``; returns it.

    Raises `UsageError` if a study names a figure that does not exist, or the page cannot be written.
    """
    page = render(studies, **more)
    output = Path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the report to {output}: {error.strerror or error}") from error
    return output


def render(
    studies: "list[tuple[Spec, list[dict[str, Any]]]]",
    plans: Mapping[str, Plan] = NO_PLANS,
    groups: Mapping[str, Sequence[str]] | None = None,
    results: str = "",
) -> str:
    """The page on ``studies`` (with their records) as text.

    ``plans`` say by study what its file asks for; ``groups`` are headings of the contents with the studies
    under them; ``results`` is the folder of results that its commands name, "" for the usual one.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["glue"] = glue
    one_by_one = tqdm(studies, "report", unit="study", disable=None if len(studies) > 1 else True)
    sections = {
        spec.name: _section(spec, records, plans.get(spec.name), results) for spec, records in one_by_one
    }
    listed = groups or {"": list(sections)}
    return environment.get_template("report.html").render(
        studies=list(sections.values()),
        contents={
            heading: [sections[name] for name in names if name in sections]
            for heading, names in listed.items()
        },
        terms=TERMS,
    )


def glue(text: str) -> Markup:
    """Text with its intervals, exponents, and numbers with units each kept on one line."""
    units_of = r"(?:s|ms|µs|ns|B|[KMGTP]iB)\b"
    pattern = rf"\[[^\]]{{1,40}}\]|\d[\d.]*(?:e[+-]\d+| {units_of})"
    return Markup(re.sub(pattern, lambda m: f'<span class="nb">{m[0]}</span>', str(escape(text))))


def _section(spec: "Spec", records: list[dict[str, Any]], plan: Plan | None, results: str) -> dict[str, Any]:
    frame = table.frame(records)
    where, also = _where(spec), f" --results {shlex.quote(results)}" if results else ""
    section: dict[str, Any] = {
        "name": spec.name,
        "question": spec.question,
        "study_file": getattr(spec, "text", ""),
        "commands": [
            f"metabench run {where}{also}",
            f"metabench figures {spec.name}{also}",
            f"metabench report {spec.name}{also}",
            f"metabench export {spec.name}{also} --format csv",
        ],
        "also": also,
        "empty": frame.empty,
    }
    if frame.empty:
        return section
    drawings, own = figures.draw(spec, frame), figures.module(spec)
    caption = next(iter(drawings.values())).caption
    constant, varied = captions.settings(frame)
    rows = table.summary(frame)
    found = verdicts(own, frame)
    bad = _failures(frame)
    return section | {
        "numbers": captions.numbers(frame),
        "failed": int((~table.cells(frame)["status"].isin(["ok", "declined"])).sum()),
        "declined": int((table.cells(frame)["status"] == "declined").sum()),
        "measured": _measured(frame),
        "verdicts": found,
        "answer": _answer(found),
        "evidence": downloads.of_verdict(spec.name, own, frame, found),
        "pictures": [picture(name, drawing) for name, drawing in drawings.items()],
        "caption": {k: v for k, v in caption.items() if k not in ("Question", "Settings", "Varied")},
        "tables": own.tables(frame) if hasattr(own, "tables") else _tables(rows),
        "numbers_are": getattr(own, "TABLE", "Medians with 95% intervals in brackets."),
        "open": len(rows) <= OPEN_ROWS,
        "failures": [one for one in bad if one["status"] not in left_out.STATUSES],
        "left_out": left_out.words(frame, plan),
        "unfinished": [one for one in bad if one["status"] in left_out.STATUSES],
        "missing": _missing(plan),
        "diverged": _diverged(frame),
        "constant": constant,
        "varied": varied,
        "environment": captions.environment(frame),
        "csv": downloads.link(f"{spec.name}.csv", "all values, one row per cell and task", frame),
    }


def verdicts(own: ModuleType, frame: pd.DataFrame) -> list[tuple[str, list[verdict.Verdict]]]:
    """What the figure module ``own`` says of a study, under headings; else the general verdicts by problem.

    Where each problem has but one of these, all of them are together under "".
    """
    if hasattr(own, "verdicts"):
        return own.verdicts(frame)
    found = verdict.verdicts(frame)
    problems = [(problem, list(group)) for problem, group in groupby(found, key=attrgetter("problem"))]
    several = problems if len(found) > len(problems) else [("", found)]
    if not hasattr(own, "answer"):
        return several
    item = verdict.Item("In a sentence", "", own.answer(frame))
    return [("", [verdict.Verdict(verdict.EVERYWHERE, "", [item])]), *several]


def _answer(found: list[tuple[str, list[verdict.Verdict]]]) -> str:
    """The first sentence of a verdict, with what it is about where that is not the whole study."""
    first = next((one for _, some in found for one in some), None)
    if first is None or not first.items:
        return ""
    item = first.items[0]
    said = f"{item.methods}{item.text}".strip()
    sentence = re.match(r".*?[.!?](?=\s+[A-Z(]|$)", said, re.DOTALL)
    about = ", ".join(filter(None, [first.problem, first.setting]))
    head = "" if about == verdict.EVERYWHERE else f"{item.term}{about and f', on {about}'}: "
    return f"{head}{sentence[0] if sentence else said}"


def _missing(plan: Plan | None) -> dict[str, Any]:
    """The cells of the plan without a record: the first of them, and how many more."""
    found = [] if plan is None else plan.missing
    return {"cells": found[:MOST_IDS], "more": max(0, len(found) - MOST_IDS)}


def _where(spec: "Spec") -> str:
    """How a shell finds the study: its name if it is shipped, else its path from here."""
    if shipped().get(spec.name) == spec.path:
        return spec.name
    path = Path(spec.path)
    near = os.path.relpath(path) if path.is_absolute() else str(path)
    return shlex.quote(path.name if near.startswith("..") else near)


def _measured(frame: pd.DataFrame) -> str:
    days = sorted(str(day)[:10] for day in frame["started"].dropna().unique())
    if not days:
        return ""
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _tables(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One table per problem, as heads and rows of texts; measures that no cell has are left out."""
    shown = [m for m in metrics.SUMMARY if rows[m.column].notna().any()]
    axes = [table.STEPS, *(axis for axis in table.AXES if axis in rows.columns)]
    axes = [axis for axis in axes if rows[axis].notna().any()]
    heads = [
        *("inner steps" if a == table.STEPS else a for a in axes),
        *(m.short for m in shown),
        "n",
        "failed",
    ]
    tables = []
    for problem, group in rows.groupby("problem", sort=False):
        body = [
            {
                "method": str(row["method"]),
                "color": style.of(str(row["method"])).color,
                "axes": [units.plain(row[a]) if pd.notna(row[a]) else "" for a in axes],
                "values": [_value(row, m) for m in shown],
                "n": _count(row),
                "failed": row["failures"],
            }
            for row in group.to_dict("records")
        ]
        tables.append({"problem": problem, "heads": heads, "rows": body})
    return tables


def _value(row: dict[Any, Any], metric: Metric) -> tuple[str, str]:
    """A median and its interval as text."""
    if pd.isna(row[metric.column]):
        return "", ""
    whole = metric.describe(*(row[metric.column + end] for end in ("", ".low", ".high")))
    median, _, interval = whole.partition(" [")
    return median, f"[{interval}" if interval else ""


def _count(row: dict[Any, Any]) -> str:
    """How many values the medians are of: tasks in all seeds, else cells."""
    tasks = max(row[f"{m.column}.n"] for m in metrics.ERRORS.values())
    seeds = units.many(row["seeds"], "seed")
    return f"{tasks} tasks, {seeds}" if tasks else f"{row['cells'] - row['failed']} cells, {seeds}"


def _failures(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Failures by kind and reason, the most frequent first, with the cells that they befell."""
    cells = table.cells(frame)
    found = []
    for status, bad in cells[cells["status"] != "ok"].groupby("status", sort=True):
        for kind in reasons.kinds(bad["reason"].fillna("no reason recorded")):
            rows = bad.loc[kind.where].head(MOST_IDS).to_dict("records")
            shown = [{"id": row["id"], "what": _what(row)} for row in rows]
            more = kind.n - len(shown)
            found.append({"status": status, "reason": kind.text, "n": kind.n, "cells": shown, "more": more})
    return sorted(found, key=lambda one: -one["n"])


def _diverged(frame: pd.DataFrame) -> str:
    """How the page shows cells that are far off and yet finite; "" if there is none."""
    ok = frame[frame["status"] == "ok"]
    worst = ok[[m.column for m in metrics.ERRORS.values()]].max(axis=1)
    n = ok.loc[worst > DIVERGED, "id"].nunique()
    if n == 0:
        return ""
    cells = "1 cell has a task" if n == 1 else f"{n} cells have tasks"
    return (
        f"Not among them: {cells} with a relative error above {DIVERGED:g}, the largest "
        f"{units.digits(worst.max())}. Diverged, but finite, that counts as ok and enters every median; the "
        "figures' axes reach as far as the medians and their intervals do, and clip none of them."
    )


def _what(row: dict[Any, Any]) -> str:
    steps = row[table.STEPS]
    text = f"{row['method']} on {row['problem']}"
    text += "" if pd.isna(steps) else f", {units.many(int(steps), 'inner step')}"
    start = row.get("start.stage")
    text += "" if start is None or pd.isna(start) else f", from a training's {start}"
    return f"{text}, {row['dtype']}, seed {row['seed']}"
