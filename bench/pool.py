"""A pool of worker processes that run cells: one can die, hang or outgrow its memory without harm to others.

Workers are started afresh (spawn), take one cell at a time, write its record themselves, and report. One that
dies loses the cell it was running: the cell gets a record that says so, another worker takes its place.
"""

import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from bench.cells import Cell
from bench.chunks import Chunks
from bench.cores import deal, devices
from bench.disk import StoreError
from bench.errors import UsageError
from bench.processes import SCHEDULERS_SIGNALS, resident_bytes
from bench.record import Record, Store, timestamp, unmeasured
from bench.worker import Runner, work

OnEvent = Callable[[Literal["start", "progress", "done", "given_up"], Cell, dict[str, Any] | None], None]

_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads and locks
_SIGNALS = {s.value: s.name for s in signal.Signals}
_GRACE_S = 10.0
POLL_S = 0.25  # between two looks at memory and at whether to stop
MOST_IDLE_DEATHS = 3  # in a row; then it is no accident


@dataclass(frozen=True)
class Lease:
    """A pool in a share of a machine that somebody lends and may ask back, such as a Slurm job's.

    ``memory`` is what a worker and all that it has started may hold resident, in bytes. ``until`` is asked
    several times a second: None to go on, or the moment (`time.monotonic`) at which running cells are given
    up; no cell is started from then on. ``wanted`` is asked before a cell is handed out: False leaves it out.
    ``bind`` says whether the cores that the process may use are its own. What the lender signals is for this
    process alone: workers ignore it.
    """

    memory: int | None = None
    until: Callable[[], float | None] = lambda: None
    wanted: Callable[[Cell], bool] = lambda cell: True
    bind: bool = True


@dataclass(eq=False)
class _Worker:
    process: Any  # of _SPAWN, whose type has no public name
    pipe: Connection
    number: int  # of its share of the cores
    ready: bool = False
    used: bool = False  # it has run a cell to the end
    chunk: deque[Cell] = field(default_factory=deque)  # its next cells
    cell: Cell | None = None  # the one it is running
    since: float = 0.0
    handed: str = ""  # when it got it, as records write their start

    def seconds(self) -> float:
        """How long it has been running its cell."""
        return time.monotonic() - self.since

    def kill(self) -> None:
        """End the worker and whatever it has started."""
        with suppress(ProcessLookupError, PermissionError):  # no group yet, or none left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()


class Pool:
    """Runs ``cells`` in ``jobs`` workers; see `bench.launch.run_cells`."""

    def __init__(
        self,
        cells: list[Cell],
        store: Store,
        jobs: int,
        time_limit: float | None,
        tell: OnEvent,
        runner: Runner,
        replace: bool,
        lease: Lease | None,
    ):
        self._store, self._jobs, self._time_limit = store, jobs, time_limit
        self._tell, self._runner, self._replace = tell, runner, replace
        self._lease = lease
        self._chunks = Chunks(cells)
        number = min(jobs, len(cells))
        own = lease is None or lease.bind
        self._cores = deal(number, most_threads(cells)) if own else [[] for _ in range(number)]
        self._devices = devices(number) if lease else [None] * number
        self._left = len(cells)  # cells without a record of this run
        self._workers: list[_Worker] = []
        self._idle_deaths = 0
        self._until: float | None = None
        self._statuses: Counter[str] = Counter()

    def run(self) -> Counter[str]:
        """Run all cells, or those that fit in before the lease ends; counts the statuses."""
        try:
            while self._left and not self._is_over():
                if self._until is None:
                    while len(self._workers) < min(self._jobs, self._left):
                        self._start()
                    for worker in list(self._workers):
                        if worker.ready and worker.cell is None:
                            self._hand_out(worker)
                for pipe in wait([w.pipe for w in self._workers], self._patience()):
                    self._listen(next(w for w in self._workers if w.pipe is pipe))
                self._end_late()
                self._end_large()
        finally:
            self._end()
        return self._statuses

    def _is_over(self) -> bool:
        """Whether the lease has ended and nothing runs that may still be finished."""
        if self._lease is None:
            return False
        self._until = self._lease.until()
        if self._until is None:
            return False
        running = [w for w in self._workers if w.cell is not None]
        if running and time.monotonic() < self._until:
            return False
        for worker in running:
            self._give_up(worker)
        return True

    def _start(self) -> None:
        pipe, theirs = _SPAWN.Pipe()
        number = min(set(range(len(self._cores))) - {w.number for w in self._workers})
        options = (self._cores[number], self._replace, self._lease is not None, self._devices[number])
        arguments = (theirs, self._store.root, self._store.study, self._runner, *options)
        process = _SPAWN.Process(target=work, args=arguments, name="metabench-worker")
        with _shielded() if self._lease else nullcontext():
            process.start()
        theirs.close()  # so that the pipe ends with the worker
        self._workers.append(_Worker(process, pipe, number))

    def _hand_out(self, worker: _Worker) -> None:
        if not worker.chunk:
            worker.chunk = self._chunks.deal(w.chunk for w in self._workers if w is not worker)
        while worker.chunk and self._lease and not self._lease.wanted(worker.chunk[0]):
            worker.chunk.popleft()
            self._left -= 1
        if not worker.chunk:
            return
        try:
            worker.pipe.send(worker.chunk[0])
        except OSError:  # it has died between two cells; the end of its pipe says so next
            return
        worker.cell, worker.since, worker.handed = worker.chunk.popleft(), time.monotonic(), timestamp()
        self._tell("start", worker.cell, None)

    def _patience(self) -> float | None:
        """Seconds until something is to be done though no worker reports."""
        waits = [] if self._lease is None else [POLL_S]
        if self._time_limit is not None:
            waits += [self._time_limit - w.seconds() for w in self._workers if w.cell is not None]
        return max(0.0, min(waits)) if waits else None

    def _listen(self, worker: _Worker) -> None:
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "store":
            raise StoreError(content)
        if kind == "progress" and worker.cell is not None:
            self._tell("progress", worker.cell, dict(zip(("done", "steps"), content, strict=True)))
            return
        worker.ready = True
        if kind in ("done", "last"):
            self._done(worker, content)
        if kind == "last":
            worker.kill()
            self._remove(worker)

    def _end_late(self) -> None:
        limit = self._time_limit
        for worker in list(self._workers):
            # A worker with something to say has made it at the last moment.
            if limit is None or worker.cell is None or worker.seconds() < limit or worker.pipe.poll():
                continue
            worker.kill()
            message = f"ended at the time limit of {limit:g} s (time_limit in the study file)"
            self._lose(worker, "timed_out", message, "TimeLimit")

    def _end_large(self) -> None:
        """End the workers that have outgrown their share, before the lender ends all of them."""
        limit = None if self._lease is None else self._lease.memory
        for worker in list(self._workers):
            if limit is None or worker.cell is None:
                continue
            held = resident_bytes(worker.process.pid)
            if held <= limit or worker.pipe.poll():
                continue
            if worker.used:  # what earlier cells have left behind may be to blame: once more, afresh
                worker.kill()
                worker.chunk.appendleft(worker.cell)
                self._give_up(worker)
                self._remove(worker)
                continue
            worker.kill()
            message = (
                f"ended at {held / 2**30:.2f} GiB of resident memory, above the {limit / 2**30:.2f} GiB that "
                "a worker may take"
            )
            self._lose(worker, "out_of_memory", message, "MemoryLimit", resident_bytes=held)

    def _bury(self, worker: _Worker) -> None:
        """A worker has died by itself."""
        worker.process.join(_GRACE_S)  # its pipe may close a little before its end
        worker.kill()
        code = worker.process.exitcode
        name = _SIGNALS.get(-code, f"signal {-code}") if code < 0 else "SystemExit"
        how = f"was ended by {name}" if code < 0 else f"ended itself with exit code {code}"
        if worker.cell is None:
            self._idle_deaths += 1
            if self._idle_deaths == MOST_IDLE_DEATHS:
                raise UsageError(f"worker processes die before they get a cell; the last one {how}")
        message = f"the worker process {how} after {worker.seconds():.1f} s"
        if name == "SIGKILL":
            message += "; most often that is the kernel's out-of-memory killer (see dmesg): try fewer --jobs"
        self._lose(worker, "killed", message, name)

    def _lose(self, worker: _Worker, status: str, message: str, kind: str, **more: int) -> None:
        """Give the cell of a worker that is no more a record, and its next cells to others.

        ``more`` goes into the record's reason.
        """
        self._remove(worker)
        if worker.cell is not None:
            written = self._store.read(worker.cell.id)
            if written is not None and written["started"] >= worker.handed:  # it died before it could tell
                self._done(worker, written)
                return
            reason = {"message": message, "type": kind, "traceback": None, **more}
            record = unmeasured(
                self._store.study, worker.cell.id, worker.cell.description, status, reason, worker.seconds()
            )
            self._store.write(record, self._replace)
            self._done(worker, record)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        self._chunks.take_back(worker.chunk)

    def _give_up(self, worker: _Worker) -> None:
        cell, worker.cell = worker.cell, None
        assert cell is not None
        self._tell("given_up", cell, None)

    def _done(self, worker: _Worker, record: Record) -> None:
        cell, worker.cell = worker.cell, None
        assert cell is not None
        worker.used = True
        self._left -= 1
        self._idle_deaths = 0
        self._statuses[record["status"]] += 1
        self._tell("done", cell, record)

    def _end(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # an idle worker ends with its pipe
        for worker in self._workers:
            if worker.ready and worker.cell is None and self._until is None:
                worker.process.join(_GRACE_S)
            worker.kill()


def most_threads(cells: Iterable[Cell]) -> int:
    """The threads of the cell that has most."""
    return max((cell.description["threads"] for cell in cells), default=1)


@contextmanager
def _shielded() -> Iterator[None]:
    """What the block starts has the scheduler's signals blocked until it can ignore them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SCHEDULERS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
