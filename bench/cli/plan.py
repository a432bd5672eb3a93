"""`metabench plan` and `metabench status`: the cells of a study and what has become of them."""

from pathlib import Path
from typing import Any

from bench.cells import expand
from bench.cli.label import label, varying
from bench.cli.standing import MISSING, Standing, command, counted, say_failures, say_repeated, standing
from bench.cli.study import load
from bench.cli.text import columns, say, say_json
from bench.cli.watch import Jobs
from bench.record import Store


def show_plan(study: str, results: Path, cells: bool, json: bool) -> None:
    """Print the cells of a study: count, groups (or one line each), and what is done."""
    of = _of(study, results)
    if json:
        listed = [{"id": c.id, "status": of.state(c), "cell": c.description} for c in of.cells]
        say_json(_head(of) | {"cells": listed})
        return
    say(f"{of.spec.name}: {of.spec.question}", style="bold")
    say(f"{len(of.cells):,} cells: {counted(map(of.state, of.cells))}")
    say()
    if cells:
        labels = of.labels()
        rows = [(cell.id, of.state(cell), labels[cell.id]) for cell in of.cells]
    else:
        rows = _groups(of)
    for line in columns(rows):
        say(line)
    if of.counts()[MISSING]:
        say()
        say(f"next: {command('run', study, results)}")


def show_status(study: str, results: Path, json: bool) -> tuple[int, bool]:
    """Print how far a study is, what failed and its jobs. Returns the exit code, and whether a job lives."""
    jobs = Jobs(Store(results, load(study, results).name))
    of = _of(study, results)
    repeated = of.store.repeated()
    if json:
        again = [{"id": cell_id, "agrees": agrees} for cell_id, agrees in repeated]
        say_json(_head(of) | {"failures": of.failures(), "repeated": again, "jobs": jobs.plain(of.statuses)})
        return of.code(), jobs.are_alive
    say(f"{of.spec.name}: {len(of.cells):,} cells: {counted(map(of.state, of.cells))}", style="bold")
    say_failures(of, results)
    say_repeated(repeated, of.store.folder / "repeated")
    jobs.say(of.statuses)
    say()
    if jobs.are_alive:
        say(f"next: {command('status', study, results)} --watch")
    elif of.counts()[MISSING]:
        say(f"next: {command('run', study, results)}")
    else:
        say(f"next: {command('report', study, results)}")
        if of.code():
            say(f"  or: {command('run', study, results)} --retry-failed")
    return of.code(), jobs.are_alive


def _of(study: str, results: Path) -> Standing:
    spec = load(study, results)
    return standing(spec, expand(spec), Store(results, spec.name))


def _head(of: Standing) -> dict[str, Any]:
    return {
        "study": of.spec.name,
        "question": of.spec.question,
        "file": str(of.spec.path),
        "count": len(of.cells),
        "states": of.counts(),
    }


def _groups(of: Standing) -> list[tuple[object, ...]]:
    """One row per problem and method: how many cells, in which states."""
    keys = varying(cell.description for cell in of.cells)
    groups: dict[tuple[str, str], list[str]] = {}
    problems: dict[int, str] = {}  # cells share the tables of their problems
    for cell in of.cells:
        table = cell.description["problem"]
        if id(table) not in problems:
            problems[id(table)] = label({"problem": table}, keys)
        group = (problems[id(table)], cell.description["method"]["name"])
        groups.setdefault(group, []).append(of.state(cell))
    return [(*group, len(states), counted(states)) for group, states in groups.items()]
