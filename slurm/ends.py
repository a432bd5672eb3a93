"""What dead jobs leave. What one was running gets the status `killed` with Slurm's word for its end.

The end of one that left cells is noted in its submission's folder, and told until they are done.
"""

import json
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.disk import StoreError, write_whole
from bench.record import Record, Store, unmeasured
from slurm import claims
from slurm.claims import Claim, Held, Survey, last_beat
from slurm.queue import JobState
from slurm.submission import Submission, submissions

SKEW_S = 5.0  # between the clocks of two machines
FORGOTTEN = "how, Slurm no longer knows"


@dataclass(frozen=True)
class End:
    """A job's end in Slurm's words, the cells that it had, and its log, which need not exist.

    No words: it was told to stop, which is no fault.
    """

    job: str
    words: str
    cells: list[str]
    log: str


def settle(store: Store, of: Survey) -> list[Record]:
    """Give what dead jobs were running its record, note their ends, remove their claims. Returns the records.

    Does nothing where Slurm did not answer: a job that is not heard of may only wait.
    """
    lost: list[Record] = []
    dead: dict[Submission, list[End]] = {}
    for one in of.held:
        if one.alive or of.silence:
            continue
        claim = claims.read(one.path)  # anew: it may have ended properly since it was read
        if claim is not None and claim.running and not claim.signal:
            lost += _lost(store, one, claim)
        if one.is_lost or claim is not None:
            words = "" if claim is not None and claim.signal else str(one.state or FORGOTTEN)
            end = End(one.claim.job, words, one.claim.cells, str(one.submission.log(one.claim.job)))
            dead.setdefault(one.submission, []).append(end)
    for submission, some in dead.items():
        _note(submission, some)
    for one in of.held:
        if not (one.alive or of.silence):
            with suppress(OSError):
                one.path.unlink(missing_ok=True)
    return lost


def noted(study_folder: Path, done: Container[str], held: Container[str]) -> list[End]:
    """The ends of jobs with cells that are neither done nor with a live job, the latest of each cell."""
    found, told = [], set()
    for submission in reversed(submissions(study_folder)):
        for end in _all(submission):
            left = [c for c in end.cells if c not in done and c not in held and c not in told]
            told.update(left)
            if left and end.words:
                found.append(End(end.job, end.words, left, end.log))
    return found


def lines(ends: list[End]) -> list[str]:
    """Ends in words: one line for each kind, and one with the log of an example."""
    kinds: dict[str, list[End]] = {}
    for end in ends:
        kinds.setdefault(end.words, []).append(end)
    said = []
    for words, some in kinds.items():
        cells = sum(len(end.cells) for end in some)
        jobs = f"{len(some):,} job{'s have' if len(some) > 1 else ' has'}"
        said.append(f"{jobs} ended and left {cells:,} cell{'s' * (cells != 1)} undone: {words}")
        end = next((end for end in some if Path(end.log).is_file()), some[0])
        wrote = f"wrote {end.log}" if Path(end.log).is_file() else f"wrote nothing (there is no {end.log})"
        said.append(f"  {'for example ' if len(some) > 1 else ''}job {end.job}, which {wrote}")
    return said


def _note(submission: Submission, dead: list[End]) -> None:
    """Note the ends that are not known yet. Raises `StoreError` where that cannot be written."""
    known = {end.job for end in _all(submission)}
    new = [asdict(end) for end in dead if end.job not in known]
    if new:  # one file for all that are found dead together
        write_whole(submission.folder / "ended" / f"{new[0]['job']}.json", json.dumps(new).encode())


def _all(submission: Submission) -> Iterator[End]:
    for path in sorted((submission.folder / "ended").glob("*.json")):
        with suppress(OSError, ValueError, TypeError, AttributeError):  # advice, as claims are
            ends = [End(**one) for one in json.loads(path.read_bytes())]
            yield from (end for end in ends if isinstance(end.cells, list) and isinstance(end.words, str))


def _lost(store: Store, one: Held, claim: Claim) -> list[Record]:
    """Write the records of what a dead job was running, where nobody has done it since."""
    descriptions: dict[str, Any] = {}
    with suppress(StoreError):  # no description, no record: the cell is missing
        descriptions = {p.cell.id: p.cell.description for p in one.submission.cells(claim.pack)}
    status, reason = _ending(claim, one.state)
    records = []
    for cell, since in claim.running.items():
        if cell not in descriptions:
            continue
        written = store.read(cell)
        if written is not None and (written["status"] == "ok" or _began(written) > since - SKEW_S):
            continue
        seconds = max(0.0, last_beat(one.path) - since)
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
