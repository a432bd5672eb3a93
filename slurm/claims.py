"""Which job has which cells: one file a job, so that no cell is sent twice. Advice only, and safe to delete.

`submit` writes a job's claim; the job says in it what it is running, touches it every half minute, and
removes it when all is done. A job lives as long as squeue lists it under the name of its submission or, where
squeue does not answer, as long as its claim is touched. One that squeue lists and that has no claim has the
cells that its submission gave it. What dead jobs leave is the matter of `slurm.ends`.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from bench.disk import StoreError, failed
from bench.launch import AGAIN
from bench.record import Store
from slurm import queue
from slurm.pack import Pack
from slurm.queue import JobState
from slurm.submission import Submission, submissions

BEAT_S = 30.0
LOCAL = "local-"  # how the ids of jobs outside of Slurm begin
NO_PACK = -1
QUIET = ("COMPLETED", "CANCELLED")  # ends that a job without a claim is not asked about
SILENCE_S = 600.0  # without a beat a job is taken for dead where squeue does not answer
YOUNG_DAYS = 30.0  # so long a job may wait in the queue, where squeue does not answer


class Queue(Protocol):
    """What is asked of Slurm; `slurm.queue` does it."""

    def missing(self) -> str | None: ...
    def named(self, names: Iterable[str], ids: Iterable[str] = ()) -> dict[str, JobState]: ...


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
    """A claim as it stands: whether its job lives, and what Slurm says of it (None where it says nothing).

    Without a claim's file (``is_lost``) it is what the submission says that the job has, where no more is
    known all that the submission has.
    """

    submission: Submission
    path: Path
    claim: Claim
    alive: bool
    state: JobState | None
    is_lost: bool = False


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
        claim = Claim(**json.loads(path.read_bytes()))
        return claim if _is_sound(claim) and claim.job == path.stem else None
    except (OSError, ValueError, TypeError):
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
    sent = {submission.job_name: submission for submission in submissions(study_folder)}
    if not sent:
        return Survey([], None)
    found = [
        (submission, path, claim)
        for submission in sent.values()
        for path in sorted(submission.claims.glob("*.json"))
        if (claim := read(path)) is not None
    ]
    if silence := ask.missing():
        return Survey([Held(*one, alive=_beats(one[1]), state=None) for one in found], silence)
    states = ask.named(sent, [claim.job for _, _, claim in found])
    held = []
    for submission, path, claim in found:
        state = states.get(claim.job)
        if state is not None and state.name != submission.job_name:
            state = None  # another's job, which has the id now
        lives = _beats(path) if claim.job.startswith(LOCAL) else state is not None and state.alive
        held.append(Held(submission, path, claim, lives, state))
    claimed = {(one.submission.job_name, one.claim.job) for one in held}
    lost: dict[str, list[JobState]] = {}
    for job, state in states.items():
        if (state.name, job) not in claimed and (state.alive or state.state not in QUIET):
            lost.setdefault(state.name, []).append(state)
    for name, some in lost.items():
        held += _unclaimed(sent[name], some)
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

    Where Slurm does not answer a folder counts as living that has a claim younger than `YOUNG_DAYS`: a job
    that waits touches nothing.
    """
    names = {Submission(folder).job_name: folder for folder in folders}
    if not names:
        return set(), None
    if silence := ask.missing():
        young = {f for f in names.values() if any(map(_is_young, Submission(f).claims.glob("*.json")))}
        return young, silence
    return {names[state.name] for state in ask.named(names).values() if state.alive}, None


def adopt(of: Survey) -> list[str]:
    """Write the claims that waiting jobs lack. Returns those jobs that a `submit` which died has left unfit.

    They will fail, for they have not got what submitit gives a job to run. Only for who has the lock.
    """
    unfit = []
    for one in of.alive():
        if one.is_lost and one.state is not None and one.state.state == "PENDING":
            if not one.submission.task(one.claim.job).exists():
                unfit.append(one.claim.job)
            elif one.claim.pack != NO_PACK:
                one.claim.write(one.path)
    return unfit


def withdraw(of: Survey) -> None:
    """Remove the claims of live jobs that have not begun: they are cancelled, and leave nothing to tell."""
    for one in of.alive():
        if not one.claim.node:
            with suppress(OSError):
                one.path.unlink(missing_ok=True)


def _unclaimed(submission: Submission, states: list[JobState]) -> list[Held]:
    """What jobs without a claim have. Where that is not known it is all that the submission has."""
    of: dict[str, int] = {}
    packs: dict[int, Pack] = {}
    with suppress(StoreError):
        packs = submission.packs()
    with suppress(StoreError):
        of = submission.packs_of(state.id for state in states)
    held = []
    for state in states:
        number = of.get(state.id, NO_PACK)
        some = [packs[number]] if number in packs else packs.values()
        claim = Claim(state.id, number, [cell for one in some for cell in one.ids])
        path = submission.claims / f"{state.id}.json"
        held.append(Held(submission, path, claim, state.alive, state, is_lost=True))
    return held


def _is_sound(claim: Claim) -> bool:
    """Whether what was read has the right types."""
    texts = [claim.job, claim.node, claim.signal]
    whole = [claim.pack, claim.restarts]
    return (
        isinstance(claim.cells, list)
        and bool(claim.cells)
        and isinstance(claim.running, dict)
        and isinstance(claim.given_up, dict)
        and all(isinstance(text, str) for text in (*texts, *claim.cells))
        and all(isinstance(number, int) for number in (*whole, *claim.given_up.values()))
        and all(isinstance(since, int | float) for since in claim.running.values())
    )


def _is_young(path: Path) -> bool:
    return time.time() - last_beat(path) < YOUNG_DAYS * 86400


def last_beat(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return time.time()


def _beats(path: Path) -> bool:
    return time.time() - last_beat(path) < SILENCE_S
