"""What a job does: the cells of one pack that are still missing, in worker processes, records to the store.

Slurm tells a job to stop by USR2 (before its time limit, and before a preemption where the cluster says so)
or by TERM (preemption, requeue or cancellation from outside). Either way no cell is started any more; the
running ones are finished if they can be in the grace time, else given up: they are still missing, and no
failures. After USR2 the job queues itself again. After TERM it waits for its end, so that Slurm, which
queues a preempted job again only if it has to end it, does so; what is cancelled stays so.
"""

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from bench import cores
from bench.cells import Cell
from bench.errors import UsageError
from bench.launch import run_cells
from bench.pool import Lease
from bench.record import Record, Store, timestamp, unmeasured
from bench.run import run_cell
from bench.worker import Runner
from slurm import queue
from slurm.claims import BEAT_S, LOCAL, Claim, read
from slurm.submission import Submission

MOST_MARGIN_S = 10.0  # of the grace time, for what comes after the cells
LINGER_S = 600.0  # longer than any cluster waits between TERM and KILL
LATE_S = 90.0  # Slurm looks at time limits every half minute and may warn a minute early
WHOLE = 0.5  # share of a job's time that a cell must have had to be told that it does not fit
MOST_GIVEN_UP = 2
LOST = "LOST"  # as if a signal: a later run has taken over
LIMIT = "USR2 at the time limit"  # as a claim calls that signal


def run_pack(plan: str, root: str, study: str, number: int, runner: Runner = run_cell) -> dict[str, int]:
    """Run what is missing of pack ``number`` of a frozen ``plan``; counts statuses. Results go to the store.

    A job that has been queued again begins here too. Raises `StoreError` where records cannot be written.
    """
    return _Job(Submission(Path(plan).parent), Store(root, study), number, runner).run()


def job_id() -> str:
    """The id by which squeue knows this job; "local-PID" outside of Slurm."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    own = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    return own or f"{LOCAL}{os.getpid()}"


class _Signals:
    """Which signal has come, and when."""

    def __init__(self) -> None:
        self.name = ""
        self.at = 0.0
        self.is_urgent = False  # a second one: Slurm is at its end

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to USR2 and TERM during the block."""
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGUSR2, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, name: str) -> None:
        """As if a signal had come."""
        self.is_urgent = bool(self.name)
        if not self.name:
            self.name, self.at = name, time.monotonic()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.stop(signal.Signals(number).name.removeprefix("SIG"))


class _Job:
    def __init__(self, submission: Submission, store: Store, number: int, runner: Runner):
        self._started = time.monotonic()
        self._store, self._runner = store, runner
        self._terms, self._pack = submission.terms(), submission.packs()[number]
        self._planned = {one.cell.id: one for one in submission.cells(number)}
        self._signals = _Signals()
        self._id = job_id()
        self._path = submission.claims / f"{self._id}.json"
        self._beat = time.monotonic()
        self._told = False  # the claim says that the job is to stop
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        self._claim = Claim(self._id, number, list(self._planned), restarts, socket.gethostname())

    def run(self) -> dict[str, int]:
        with self._signals.heard():
            try:
                self._take_over(read(self._path))
                counts = self._run_cells()
            except BaseException:
                self._forget()
                raise
            self._end(counts)
        return dict(counts)

    def _run_cells(self) -> Counter[str]:
        todo = self._todo()
        self._say(
            f"job {self._id}, run {self._claim.restarts + 1}, on {self._claim.node}: "
            f"{len(todo)} of {len(self._planned)} cells to do, {self._pack.workers} at a time"
        )
        return run_cells(
            todo,
            self._store,
            jobs=self._pack.workers,
            time_limit=self._terms.time_limit,
            on_event=self._hear,
            runner=self._runner,
            lease=self._lease(),
        )

    def _take_over(self, earlier: Claim | None) -> None:
        """Begin where the run before this one of the same job has ended."""
        if earlier is not None:
            self._claim.given_up = earlier.given_up
            if earlier.signal == LIMIT:  # it was ended before it could say what it gives up
                last = self._path.stat().st_mtime
                for cell, since in earlier.running.items():
                    self._count_given_up(cell, last - since)
        self._claim.write(self._path)

    def _todo(self) -> list[Cell]:
        """What is missing; first what has been given up, so that it gets the whole time of this run."""
        records = {record["id"]: record for record in self._store.each(self._planned.__contains__)}
        missing = [one.cell for i, one in self._planned.items() if one.is_missing(records.get(i))]
        return sorted(missing, key=lambda cell: cell.id not in self._claim.given_up)

    def _is_still_missing(self, cell: Cell) -> bool:
        """Whether a cell of `_todo` has not been done by others since; one look at one file."""
        if not self._store.loose.path(cell.id).exists():
            return True
        return self._planned[cell.id].is_missing(self._store.read(cell.id))

    def _lease(self) -> Lease:
        lent = int(os.environ.get("SLURM_CPUS_ON_NODE", 0))
        own = lent == 0 or len(cores.available()) <= lent  # else every job of the node sees all cores
        return Lease(int(self._pack.needs.memory_gb * 2**30), self._until, self._is_still_missing, own)

    def _until(self) -> float | None:
        """For the pool: None to go on, or when to give up what runs."""
        now = time.monotonic()
        if now - self._beat > BEAT_S:
            self._beat = now
            self._touch()
        if not self._signals.name:
            return None
        if not self._told:
            self._told = True
            self._say(f"{self._signals.name}: no more cells are started")
            self._note(signal=LIMIT if self._is_at_limit() else self._signals.name)
        margin = min(MOST_MARGIN_S, self._terms.grace_seconds / 4)
        return now if self._signals.is_urgent else self._signals.at + self._terms.grace_seconds - margin

    def _touch(self) -> None:
        """Say that the job lives. Where a later run of it does, this one is the orphan of a lost node."""
        other = read(self._path)
        if other is None:
            self._note()
        elif other.restarts > self._claim.restarts:
            self._say("this job has been started again elsewhere: this run ends")
            self._signals.stop(LOST)
        else:
            with suppress(OSError):
                os.utime(self._path)

    def _hear(self, kind: str, cell: Cell, record: Record | None) -> None:
        """What the pool tells: to the log, and what is running to the claim."""
        if kind == "start":
            self._claim.running[cell.id] = time.time()
            self._say(f"start {cell.id} {self._planned[cell.id].name}".rstrip())
            self._note()
            return
        since = self._claim.running.pop(cell.id)
        if record is not None:
            message = (record["reason"] or {}).get("message") or ""
            self._say(f"done {cell.id} {record['status']} {message.partition(chr(10))[0]}".rstrip())
            return
        ran = time.time() - since
        self._say(f"given_up {cell.id} after {ran:.0f} s")
        if self._claim.signal == LIMIT:
            self._count_given_up(cell.id, ran)

    def _count_given_up(self, cell: str, ran: float) -> None:
        """A cell that had most of a job's whole time and did not end will not end in the next run either."""
        whole = 60 * self._terms.minutes - self._terms.grace_seconds
        if ran < WHOLE * whole:
            return
        times = self._claim.given_up[cell] = self._claim.given_up.get(cell, 0) + 1
        if times < MOST_GIVEN_UP:
            return
        message = (
            f"did not end in {times} runs of job {self._id}, the last time within {ran:.0f} s; a job of "
            f"profile {self._terms.profile} has {self._terms.minutes:g} min; choose one with more"
        )
        reason = {"message": message, "type": "JobTimeLimit", "traceback": None}
        description = self._planned[cell].cell.description
        self._store.write(unmeasured(self._store.study, cell, description, "timed_out", reason, ran))
        self._say(f"done {cell} timed_out {message}")

    def _is_at_limit(self) -> bool:
        """Whether the signal is the warning of the time limit (else of a preemption)."""
        ran = self._signals.at - self._started
        late = ran > 60 * self._terms.minutes - self._terms.grace_seconds - LATE_S
        return late and self._signals.name == "USR2"

    def _end(self, counts: dict[str, int]) -> None:
        """After the cells: nothing is left, or the job is queued again, or it waits for its end."""
        if self._signals.name == LOST:
            return
        left = len(self._todo()) if self._signals.name else 0
        self._say(f"{sum(counts.values())} cells done, {left} left")
        if left == 0:
            self._path.unlink(missing_ok=True)
            return
        self._note()
        in_slurm = "SLURM_JOB_ID" in os.environ
        if self._signals.name == "USR2" and not self._terms.requeue:
            self._say("not queued again (requeue = false in the profile); submit again")
        elif self._signals.name == "USR2" and in_slurm:
            self._requeue()
        elif in_slurm:
            time.sleep(LINGER_S)

    def _requeue(self) -> None:
        try:
            state = queue.jobs([self._id]).get(self._id)
            if state is not None and state.state == "RUNNING":  # else it was cancelled, or is queued already
                queue.requeue(self._id)
                self._say("queued again")
        except UsageError as error:
            self._say(f"not queued again: {error}; submit again")

    def _forget(self) -> None:
        """Nothing runs any more, and the job fails; where not even that can be said there is no claim."""
        self._claim.running.clear()
        try:
            if self._signals.name != LOST:
                self._claim.write(self._path)
        except UsageError:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _note(self, **changes: Any) -> None:
        """Write the claim. Where that fails the cells still run: it is advice."""
        for name, value in changes.items():
            setattr(self._claim, name, value)
        if self._signals.name != LOST:  # then it is another's
            with suppress(UsageError):
                self._claim.write(self._path)

    def _say(self, line: str) -> None:
        print(f"{timestamp()} {line}", flush=True)
