"""`metabench plan` and `metabench status`: the cells of a study and what has become of them."""

from pathlib import Path
from typing import Any

from bench.cells import expand
from bench.cli.foretell import foretell, work_ahead
from bench.cli.jobs import submitted
from bench.cli.label import label, varying
from bench.cli.standing import (
    MISSES,
    NOTHING,
    TO_DO,
    Standing,
    command,
    counted,
    of_no_cell,
    say_failures,
    say_next,
    say_not_compiled,
    say_repeated,
    say_strangers,
    standing,
)
from bench.cli.study import load, load_for_reading
from bench.cli.text import columns, counting, say, say_json
from bench.cli.watch import Jobs, last_profile
from bench.errors import UsageError
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
    say_strangers(len(of.strangers))
    if missing := [cell for cell in of.cells if of.state(cell) in TO_DO]:
        say(work_ahead(foretell(of, missing)))
    say()
    if cells:
        labels = of.labels()
        rows = [(cell.id, of.state(cell), labels[cell.id]) for cell in of.cells]
    else:
        rows = _groups(of)
    for line in columns(rows):
        say(line)
    if missing:
        say()
        say(f"next: {command('run', study, results)}")


def show_status(study: str, results: Path, json: bool, watched: bool = False) -> tuple[int, bool]:
    """Print how far a study is, what failed and its jobs. Returns the exit code, and whether a job lives."""
    jobs = Jobs(Store(results, load(study, results).name))
    of = _of(study, results)
    code = MISSES if jobs.are_alive and of.code() == NOTHING else of.code()
    repeated = of.store.repeated()
    if json:
        again = [{"id": cell_id, "agrees": agrees} for cell_id, agrees in repeated]
        kinds = {"failures": of.failures(), "not_compiled": of.not_compiled()}
        told = {name: kind.found for name, kind in kinds.items()} | {"repeated": again}
        counted_in = {name: {"read": kind.read, "of": kind.of} for name, kind in kinds.items()}
        say_json(_head(of) | told | {"counted_in": counted_in, "jobs": jobs.plain(of)})
        return code, jobs.are_alive
    say(f"{of.spec.name}: {len(of.cells):,} cells: {counted(map(of.state, of.cells))}", style="bold")
    say_strangers(len(of.strangers))
    say_failures(of, results)
    say_not_compiled(of, results)
    say_repeated(repeated, of.store.folder / "repeated")
    jobs.say(of)
    if not jobs.are_alive:
        say()
        say_next(of, study, results, last_profile(of.store.folder))
    elif not watched:
        say()
        say(f"next: {command('status', study, results, '--watch')}")
    return code, jobs.are_alive


def show_studies(results: Path, json: bool) -> int:
    """Print one line a study under ``results``. Returns the exit code of the worst."""
    found = [_known(name, results) for name in submitted(results)]
    if json:
        say_json([_head(of) for of in found])
    else:
        for line in columns((of.spec.name, counting(len(of.cells), "cell"), _states(of)) for of in found):
            say(line)
        if not found:
            say(f"there are no studies in {results}; `metabench list study` has those to run")
    return max((MISSES if of.code() else 0 for of in found), default=NOTHING)


def _known(name: str, results: Path) -> Standing:
    """How a study stands that has a folder; where it has no file that can be read, by its records alone."""
    spec, store = load_for_reading(name, results), Store(results, name)
    try:
        return standing(spec, expand(spec), store)
    except UsageError:
        return standing(spec, [], store)


def _states(of: Standing) -> str:
    strangers = f"; {of_no_cell(len(of.strangers))}" if of.strangers else ""
    return counted(map(of.state, of.cells)) + strangers


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
        "of_no_cell": len(of.strangers),
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
