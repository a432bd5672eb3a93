"""Which job has which cells: one file a job, so that no cell is sent twice. Advice only, and safe to delete.

`submit` writes a job's claim; the job says in it what it is running, touches it every half minute, and
removes it when all is done. A job lives as long as squeue lists it or, where squeue does not answer, as
long as its claim is touched. What a job was running when it died gets the status `killed` with Slurm's word
for its end.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from bench.disk import StoreError, failed
from bench.errors import UsageError
from bench.launch import AGAIN
from bench.record import Record, Store, unmeasured
from slurm import queue
from slurm.queue import JobState
from slurm.submission import Submission, submissions

BEAT_S = 30.0
SKEW_S = 5.0  # between the clocks of two machines
SILENCE_S = 600.0  # without a beat a job is taken for dead where squeue does not answer
YOUNG_DAYS = 30.0  # so long a job may wait in the queue, where squeue does not answer
LOCK_S = 600.0  # a `submit` takes seconds; one of this age has died


class Queue(Protocol):
    """What is asked of Slurm; `slurm.queue` does it."""

    def missing(self) -> str | None: ...
    def jobs(self, ids: Iterable[str]) -> dict[str, JobState]: ...


@dataclass
class Claim:
    """The cells of a job. ``running``: since when (seconds of `time.time`) it runs which.

    ``restarts`` counts the runs before this one, ``signal`` is the one that has told it to stop, ``given_up``
    how often a cell has not fitted into a whole run.
    """

    job: str
    pack: int
    cells: list[str]
    restarts: int = 0
    node: str = ""
    signal: str = ""
    running: dict[str, float] = field(default_factory=dict)
    given_up: dict[str, int] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Whole or not at all; not synced to the disk, for it is advice and there are thousands."""
        part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            part.write_text(json.dumps(asdict(self)), encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            raise failed("write", path, error) from error


@dataclass(frozen=True)
class Held:
    """A claim as it stands: whether its job lives, and what Slurm says of it (None where it says nothing)."""

    submission: Submission
    path: Path
    claim: Claim
    alive: bool
    state: JobState | None


@dataclass(frozen=True)
class Survey:
    """The claims of a study; ``silence`` is why Slurm was not asked, None where it answered."""

    held: list[Held]
    silence: str | None

    def alive(self) -> list[Held]:
        return [one for one in self.held if one.alive]

    def taken(self) -> set[str]:
        """The cells that live jobs have."""
        return {cell for one in self.alive() for cell in one.claim.cells}


def read(path: Path) -> Claim | None:
    """The claim in a file; None where there is none, or a damaged one."""
    try:
        return Claim(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed("read", path, error) from error
    except (ValueError, TypeError):
        return None


def lay(submission: Submission, jobs: dict[int, str]) -> None:
    """Write the claims of jobs that have just been submitted, but for those that have begun and done it."""
    packs = submission.packs()
    for pack, job in jobs.items():
        path = submission.claims / f"{job}.json"
        if not path.exists():
            Claim(job, pack, list(packs[pack].ids)).write(path)


def survey(study_folder: Path, ask: Queue = queue) -> Survey:
    """All claims of a study's jobs, with one question to Slurm. Changes nothing."""
    found = [
        (submission, path, claim)
        for submission in submissions(study_folder)
        for path in sorted(submission.claims.glob("*.json"))
        if (claim := read(path)) is not None
    ]
    if not found:
        return Survey([], None)
    if silence := ask.missing():
        return Survey([Held(*one, alive=_beats(one[1]), state=None) for one in found], silence)
    states = ask.jobs([claim.job for _, _, claim in found])
    held = []
    for submission, path, claim in found:
        state = states.get(claim.job)
        held.append(Held(submission, path, claim, state is not None and state.alive, state))
    return Survey(held, None)


def unfinished(held: Iterable[Held], store: Store, statuses: Mapping[str, str]) -> set[str]:
    """The cells of jobs without a record, or with that which they had when they were submitted anew.

    ``statuses`` are those of all stored cells.
    """
    held = list(held)
    cells = {cell for one in held for cell in one.claim.cells}
    left = {cell for cell in cells if statuses.get(cell) in AGAIN}
    failed = {cell for cell in cells - left if statuses[cell] != "ok"}
    if failed:
        before: dict[str, str] = {}
        for submission in {one.submission for one in held}:
            before |= submission.before()
        left |= {r["id"] for r in store.each(failed.__contains__) if before.get(r["id"]) == r["started"]}
    return left


def living(folders: Iterable[Path], ask: Queue = queue) -> tuple[set[Path], str | None]:
    """Which folders of submissions have jobs that live, and why Slurm was not asked (None where it was).

    A job that waits touches nothing, and claims may have been deleted: so all jobs of a submission are asked
    for. Where Slurm does not answer a folder counts as living that has a claim younger than `YOUNG_DAYS`.
    """
    jobs = {folder: _jobs(Submission(folder)) for folder in folders}
    if not any(jobs.values()):
        return set(), None
    if silence := ask.missing():
        young = {f for f in jobs if any(_is_young(p) for p in Submission(f).claims.glob("*.json"))}
        return young, silence
    states = ask.jobs({job for some in jobs.values() for job in some})
    alive = {job for job, state in states.items() if state.alive}
    return {folder for folder, some in jobs.items() if some & alive}, None


def settle(store: Store, of: Survey) -> list[Record]:
    """Give what dead jobs were running its record, and remove their claims. Returns the records.

    Does nothing where Slurm did not answer: a job that is not heard of may only wait.
    """
    lost = []
    for one in of.held:
        if one.alive or of.silence:
            continue
        claim = read(one.path)  # anew: it may have ended properly since it was read
        if claim is not None and claim.running and not claim.signal:
            lost += _lost(store, one, claim)
        with suppress(OSError):
            one.path.unlink(missing_ok=True)
    return lost


@contextmanager
def submitting(study_folder: Path) -> Iterator[None]:
    """One `submit` of a study at a time; `UsageError` where another is under way."""
    lock = study_folder / "jobs" / "submitting"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if time.time() - lock.stat().st_mtime > LOCK_S:
            lock.unlink()
    try:
        with open(lock, "x", encoding="utf-8") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
    except FileExistsError:
        owner = lock.read_text(encoding="utf-8") if lock.exists() else "one that has just ended"
        raise UsageError(
            f"another `metabench submit` of this study is under way ({owner}); wait for it, or delete {lock} "
            "where it has died"
        ) from None
    except OSError as error:
        raise failed("write", lock, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _lost(store: Store, one: Held, claim: Claim) -> list[Record]:
    """Write the records of what a dead job was running, where nobody has done it since."""
    descriptions = {p.cell.id: p.cell.description for p in one.submission.cells(claim.pack)}
    status, reason = _ending(claim, one.state)
    records = []
    for cell, since in claim.running.items():
        written = store.read(cell)
        if written is not None and (written["status"] == "ok" or _began(written) > since - SKEW_S):
            continue
        seconds = max(0.0, _last_beat(one.path) - since)
        record = unmeasured(store.study, cell, descriptions[cell], status, reason, seconds)
        store.write(record)
        records.append(record)
    return records


def _ending(claim: Claim, state: JobState | None) -> tuple[str, dict[str, Any]]:
    """Status and reason of what a job was running when it ended."""
    message = f"job {claim.job} ended on {claim.node} while it ran this cell"
    if state is None:
        message += "; Slurm no longer knows the job (that is so after minutes where accounting is off)"
        return "killed", {"message": message, "type": "JobLost", "traceback": None}
    message += f": {state.state}" + (f" ({state.reason})" if state.reason else "")
    reason = {"message": message, "type": state.state, "traceback": None}
    # One of several cells has taken the memory: which is not known, so that all are run again.
    alone = state.state == "OUT_OF_MEMORY" and len(claim.running) == 1
    return ("out_of_memory" if alone else "killed"), reason


def _began(record: Record) -> float:
    """When a record's cell began, in seconds of `time.time`."""
    started = record.get("started")
    return datetime.fromisoformat(started).timestamp() if started else 0.0


def _jobs(submission: Submission) -> set[str]:
    """The jobs that a submission has noted, and those that have a claim."""
    found = {path.stem for path in submission.claims.glob("*.json")}
    with suppress(StoreError, ValueError, KeyError):  # not written in full, or damaged
        found |= set(submission.jobs().values())
    return found


def _is_young(path: Path) -> bool:
    return time.time() - _last_beat(path) < YOUNG_DAYS * 86400


def _last_beat(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return time.time()


def _beats(path: Path) -> bool:
    return time.time() - _last_beat(path) < SILENCE_S
