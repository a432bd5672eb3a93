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
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from bench.disk import failed
from bench.record import Record, Store, unmeasured
from slurm import queue
from slurm.queue import JobState
from slurm.submission import Submission, submissions

BEAT_S = 30.0
SKEW_S = 5.0  # between the clocks of two machines
SILENCE_S = 600.0  # without a beat a job is taken for dead where squeue does not answer


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


def _last_beat(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return time.time()


def _beats(path: Path) -> bool:
    return time.time() - _last_beat(path) < SILENCE_S
