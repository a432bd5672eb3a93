"""How a study stands: which cells are done, failed or missing, what failed, and the exit code for it."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cells import Cell
from bench.cli.label import label, varying
from bench.cli.text import counting, say, warn
from bench.record import MEASURED, NO_KERNEL, RAN_EAGER, STATUSES, Record, Store, engine_of
from bench.spec import Spec

MISSING = "missing"
TO_DO = (MISSING, "killed")  # the states that `run` and `submit` take up unasked
FINE = ("ok", "declined")  # the states that leave nothing to do or to repair
SHOWN_KINDS = 12
MOST_READ = (
    5_000  # records that are read whole to say what failed, or what ran without kernels: about a second
)
MISSES, NOTHING = 1, 3  # exit codes: something failed or is missing; nothing is measured


@dataclass(frozen=True)
class Standing:
    """Cells of a study, in order, and the statuses of those that have a record in the store."""

    spec: Spec
    cells: list[Cell]
    statuses: dict[str, str]
    store: Store
    strangers: dict[str, str]  # of the records that belong to none of the cells

    def state(self, cell: Cell) -> str:
        """The status of a cell's record, or "missing"."""
        return self.statuses.get(cell.id, MISSING)

    def counts(self) -> Counter[str]:
        """How many cells are in which state."""
        return Counter(map(self.state, self.cells))

    def code(self) -> int:
        """The exit code: 0 all is ok or declined, 1 something failed or is missing, 3 nothing is measured."""
        counts = self.counts()
        if not any(counts[state] for state in MEASURED):
            return NOTHING
        return 0 if all(state in FINE for state in counts) else MISSES

    def labels(self) -> dict[str, str]:
        """Cell id -> the cell in one line."""
        keys = varying(cell.description for cell in self.cells)
        return {cell.id: label(cell.description, keys) for cell in self.cells}

    def failures(self) -> "Kinds":
        """What is not ok by status and message: count, one example, its label."""
        not_ok = [cell for cell in self.cells if self.state(cell) not in ("ok", MISSING)]
        return self._kinds(not_ok, lambda record: {"status": record["status"], "message": headline(record)})

    def not_compiled(self) -> "Kinds":
        """Cells that ask for compiled kernels and ran without, by engine and reason: count and example."""
        compiled = (cell for cell in self.cells if cell.description.get("engine") == "compiled")
        return self._kinds([cell for cell in compiled if cell.id in self.statuses], _without_kernels)

    def _kinds(self, cells: list[Cell], kind_of: Callable[[Record], dict[str, str] | None]) -> "Kinds":
        """What ``kind_of`` the records of ``cells`` says, if anything, the most frequent first."""
        # Ids are hashes: the first in their order are a draw at random, and lie together in parts.
        read = {cell.id: cell for cell in sorted(cells, key=lambda cell: cell.id)[:MOST_READ]}
        records = self.store.each(read.__contains__) if read else ()
        kinds = {record["id"]: kind for record in records if (kind := kind_of(record))}
        warn_of(self.store)
        keys = varying(cell.description for cell in self.cells)
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for cell in cells:
            if cell.id not in kinds:  # not read, damaged as was just said, or nothing to tell
                continue
            key = tuple(kinds[cell.id].values())
            if key not in found:
                example = {"example": cell.id, "label": label(cell.description, keys)}
                found[key] = kinds[cell.id] | {"count": 0} | example
            found[key]["count"] += 1
        return Kinds(sorted(found.values(), key=lambda kind: -kind["count"]), len(read), len(cells))


@dataclass(frozen=True)
class Kinds:
    """What is to be told of a study's records by kind, and how many records were read for it, of how many."""

    found: list[dict[str, Any]]
    read: int
    of: int


def _without_kernels(record: Record) -> dict[str, str] | None:
    if (engine := engine_of(record)) not in (RAN_EAGER, NO_KERNEL):
        return None
    why = next((one["eager"] for one in record["engine"].values()), "the method asks for no kernel")
    return {"engine": engine, "message": why}


def standing(spec: Spec, cells: list[Cell], store: Store) -> Standing:
    """How ``cells`` of a study stand; warns of damaged record files."""
    stored = store.ids()
    warn_of(store)
    known = {cell.id: stored.pop(cell.id) for cell in cells if cell.id in stored}
    return Standing(spec, cells, known, store, stored)


def read(store: Store) -> dict[str, Record]:
    """All records by id; warns of the damaged files that were moved aside, each once."""
    stored = {record["id"]: record for record in store.records()}
    warn_of(store)
    return stored


def warn_of(store: Store) -> None:
    """Warn of the damaged files that reading has moved aside, each once."""
    while store.set_aside:
        warn(store.set_aside.pop(0))


def counted(states: Iterable[str]) -> str:
    """How many cells are in which state, in words."""
    counts = Counter(states)
    return ", ".join(f"{counts[s]:,} {s}" for s in (*STATUSES, MISSING) if counts[s]) or "none"


def headline(record: Record) -> str:
    """The first line of why a cell is not ok, with the exception's type where there was one."""
    reason = record["reason"] or {}
    message = (reason.get("message") or "no message").strip().partition("\n")[0]
    return f"{reason['type']}: {message}" if record["status"] == "error" and reason.get("type") else message


def say_failures(standing: Standing, results: Path) -> None:
    """Print the kinds of failure, each with an example and how to look at it."""
    _say_kinds(standing.failures(), "status", results, "kinds of failure")


def say_not_compiled(standing: Standing, results: Path) -> None:
    """Print which compiled cells ran without a kernel, and why."""
    _say_kinds(standing.not_compiled(), "engine", results, "reasons to run without kernels")


def _say_kinds(kinds: Kinds, word: str, results: Path, what: str) -> None:
    for kind in kinds.found[:SHOWN_KINDS]:
        say()
        style = "yellow" if word != "status" or kind["status"] in (*MEASURED, *FINE) else "red"
        say(f"{kind['count']:,} {kind[word]}: {kind['message']}", style=style)
        say(f"  {'for example ' if kind['count'] > 1 else ''}{kind['label']}")
        say(f"  {command('show', kind['example'], results)}")
    if len(kinds.found) > SHOWN_KINDS:
        say()
        say(f"and {len(kinds.found) - SHOWN_KINDS} more {what}; `metabench status --json` lists all")
    if kinds.found and kinds.read < kinds.of:
        say()
        say(f"counted in {counting(kinds.read, 'record')}, drawn at random from {kinds.of:,}", style="yellow")


def say_repeated(repeated: list[tuple[str, bool]], folder: Path) -> None:
    """Print how many cells have several records, and whether these contradict each other."""
    if not repeated:
        return
    differ = [cell_id for cell_id, agrees in repeated if not agrees]
    say()
    say(f"{counting(len(repeated), 'cell')} with a second record, {agreement(len(differ))}; see {folder}")
    if differ:
        say(f"  {', '.join(differ[:SHOWN_KINDS])}{', ...' if len(differ) > SHOWN_KINDS else ''}", style="red")


def agreement(differ: int) -> str:
    """What second records say: ``differ`` of them have other results."""
    return f"{differ:,} of them with other results" if differ else "all with the same results"


def say_strangers(count: int) -> None:
    """Print how many records belong to no cell of the study; nothing where all do."""
    if count:
        say(f"{of_no_cell(count)}; export, figures and report take them with --unasked", "yellow")


def of_no_cell(count: int) -> str:
    """So many records, in the words of all verbs: an edited file leaves such, a merge brings them."""
    return f"{counting(count, 'record')} belong{'s' * (count == 1)} to no cell of this study file"


def say_next(
    of: Standing, study: str, results: Path, profile: str | None = None, retried: bool = False
) -> None:
    """Print what to do next: what is missing, then what failed (unless just ``retried``), then the report.

    ``profile`` is that of a study's last submission: then it is submitted again, not run.
    """
    counts = of.counts()
    verb, more = ("submit", ["--profile", profile]) if profile else ("run", [])
    steps = []
    if any(counts[state] for state in TO_DO):
        steps.append(command(verb, study, results, *more))
    if set(counts) - {*FINE, *TO_DO} and not retried:
        steps.append(command(verb, study, results, *more, "--retry-failed"))
    if any(counts[state] for state in MEASURED) and not counts[MISSING]:
        steps.append(command("report", study, results))
    for number, step in enumerate(steps):
        say(f"{'  or' if number else 'next'}: {step}")


def command(verb: str, argument: str, results: Path, *more: str) -> str:
    """A command to copy and paste."""
    where = [] if results == Path("results") else ["--results", str(results)]
    return shlex.join(["metabench", verb, argument, *where, *more])
