"""`metabench run`: run what is missing of a study, show how it goes, say what came of it."""

import time
from pathlib import Path
from typing import Any

from bench.cells import Cell, canonical, expand
from bench.cli.label import label, varying
from bench.cli.progress import display
from bench.cli.standing import (
    FINE,
    Standing,
    command,
    counted,
    headline,
    say_failures,
    say_next,
    say_not_compiled,
    say_strangers,
    standing,
)
from bench.cli.study import keep_copy, load
from bench.cli.text import console, counting, duration, say, warn
from bench.errors import UsageError
from bench.launch import run_cells, some, todo
from bench.record import Record, Store
from bench.spec import Spec
from bench.start import NotTrainedError, located

INTERRUPTED = 130
SHOWN_FAILURES = 3  # as they happen, to stop a faulty study early; the summary tells all


def run_study(
    study: str, jobs: int, results: Path, prefix: str | None, limit: int | None, force: bool, retry: bool
) -> int:
    """Run a study, at most ``limit`` cells of it, or the one whose id begins with ``prefix``.

    Returns the exit code.
    """
    spec = load(study, results)
    store = Store(results, spec.name)
    cells = expand(spec)
    if prefix is not None:
        cells = [_one(cells, prefix, store)]
    pending = some(cells if force else todo(cells, store, retry), limit)
    before = standing(spec, cells, store)
    _announce(before, pending, jobs)
    if prefix is None:
        say_strangers(len(before.strangers))
    _say_untrained(pending, results)
    if pending:
        keep_copy(spec, results)
        started = time.monotonic()
        try:
            _run(spec, store, pending, jobs, force)
        except KeyboardInterrupt:
            say()
            say(f"interrupted; finished cells are kept. To go on: {command('run', study, results)}", "yellow")
            return INTERRUPTED
        say(f"{counting(len(pending), 'cell')} ran in {duration(time.monotonic() - started)}")
    after = standing(spec, cells, store)
    _summary(after, study, results, retry)
    return after.code()


def _one(cells: list[Cell], prefix: str, store: Store) -> Cell:
    """The cell that ``prefix`` means: of the study as it is now, else one that was run and is stored."""
    found = [cell for cell in cells if cell.id.startswith(prefix.lower())]
    if not found:
        stored = store.each(lambda i: i.startswith(prefix.lower()))
        found = sorted((Cell(r["id"], r["cell"]) for r in stored), key=lambda cell: cell.id)
    if not found:
        raise UsageError(
            f"no cell of {store.study} has an id that begins with '{prefix}'; "
            "`metabench plan STUDY --cells` lists them"
        )
    if len(found) > 1:
        listed = "\n".join(f"  {cell.id}" for cell in found[:20])
        raise UsageError(
            f"{len(found)} cells of {store.study} begin with '{prefix}'; give more of the id:\n{listed}"
        )
    return found[0]


def _say_untrained(pending: list[Cell], results: Path) -> None:
    """Say how many cells will be declined for want of a training; raises `NotTrainedError` if all will."""
    by_start: dict[str, list[Cell]] = {}
    for cell in pending:
        by_start.setdefault(canonical(cell.description.get("start")), []).append(cell)
    untrained, first = 0, None
    for some_cells in by_start.values():
        try:
            located(some_cells[0].description, results)
        except NotTrainedError as error:
            untrained, first = untrained + len(some_cells), first or error
    if first is None:
        return
    if untrained == len(pending):
        raise first
    warn(f"{counting(untrained, 'cell')} will be declined: {first}; then run them with --retry-failed")


def _announce(before: Standing, pending: list[Cell], jobs: int) -> None:
    done = list(before.statuses.values())
    again = sum(cell.id in before.statuses for cell in pending)
    workers = f"with {counting(jobs, 'worker')}" if jobs else "in this process"
    say(f"{before.spec.name}: {before.spec.question}", "bold")
    also = "" if not again else " again" if again == len(pending) else f", {again:,} of them again,"
    if jobs > 1 and any(_timed_on_cuda(cell.description) for cell in pending):
        warn("workers share the GPU, and the times of their cells disturb each other; time with --jobs 1")
    say(
        f"{counting(len(before.cells), 'cell')}, {len(done):,} done already"
        f"{f' ({counted(done)})' if done else ''}, {len(pending):,} to run{also}"
        f"{f' {workers}' if pending else ''}"
    )


def _timed_on_cuda(of: dict[str, Any]) -> bool:
    return of["device"].startswith("cuda") and "time" in of["passes"]


def _run(spec: Spec, store: Store, pending: list[Cell], jobs: int, force: bool) -> None:
    keys = varying(cell.description for cell in pending)
    failures = 0
    with display(console(), len(pending)) as shown:

        def on_event(kind: str, cell: Cell, record: Record | None) -> None:
            nonlocal failures
            if kind == "progress" and record is not None:
                shown.inside(f"step {record['done']:,} of {record['steps']:,}")
            if kind != "done" or record is None:
                return
            failed = record["status"] not in FINE
            failures += failed
            if failed and failures <= SHOWN_FAILURES:
                say(f"{cell.id} {record['status']}: {headline(record)}", "red")
                say(f"  {label(cell.description, keys)}")
            shown.step(failed)

        run_cells(pending, store, jobs, spec.time_limit, on_event, replace=force)


def _summary(after: Standing, study: str, results: Path, retried: bool) -> None:
    counts = after.counts()
    style = "bold green" if after.code() == 0 else "bold"
    say(f"{after.spec.name}: {counted(map(after.state, after.cells))}", style)
    say_failures(after, results)
    say_not_compiled(after, results)
    if any(counts[state] for state in counts if state != "ok"):
        say()
    say(f"records: {results / after.spec.name}")
    say_next(after, study, results, retried=retried)
