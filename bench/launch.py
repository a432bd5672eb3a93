"""Runs cells, here or in worker processes, so that no cell can harm another.

Workers are started afresh (spawn), take one cell at a time, write its record themselves, and report. One that
dies loses the cell it was running: the cell gets a record that says so, another worker takes its place.
"""

import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from bench.cells import Cell, canonical
from bench.cores import deal
from bench.disk import StoreError
from bench.errors import UsageError
from bench.record import Record, Store, timestamp, unmeasured
from bench.run import run_cell
from bench.worker import Runner, measure, work

OnEvent = Callable[[Literal["start", "done"], Cell, Record | None], None]

_SPAWN = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads and locks
_SIGNALS = {s.value: s.name for s in signal.Signals}
_GRACE_S = 10.0
MOST_IDLE_DEATHS = 3  # in a row; then it is no accident


def todo(cells: Iterable[Cell], store: Store, retry: bool = False) -> list[Cell]:
    """The cells without a record, those whose worker was killed, and with ``retry`` all that are not ok."""
    status = store.ids()
    again = {None, "killed"}
    return [c for c in cells if status.get(c.id) in again or (retry and status[c.id] != "ok")]


def run_cells(
    cells: Iterable[Cell],
    store: Store,
    jobs: int = 1,
    time_limit: float | None = None,
    on_event: OnEvent | None = None,
    runner: Runner = run_cell,
    replace: bool = False,
) -> Counter[str]:
    """Run cells and store their records; counts the statuses.

    ``jobs`` worker processes, or with 0 this one (for debuggers: no time limit, nothing survives a crash).
    A cell that takes more than ``time_limit`` seconds is ended. ``on_event`` hears ("start", cell, None) and
    ("done", cell, record). ``runner`` must be importable by name; it is given the cell and the study's name.
    ``replace`` lets new records take the place of ok ones too.

    Raises `StoreError` where records cannot be written; a KeyboardInterrupt passes through. Either way the
    workers are ended and the finished records stay. Every worker has cores of its own, see `bench.cores`.
    """
    if jobs < 0:
        raise UsageError(f"jobs = {jobs} is not possible; allowed: 0 (in this process), 1, 2, ...")
    cells = list(dict.fromkeys(cells))
    tell = on_event or (lambda kind, cell, record: None)
    store.discard_litter()
    store = Store(store.root.absolute(), store.study)  # a plugin may change the working directory
    if jobs:
        return _Pool(cells, store, jobs, time_limit, tell, runner, replace).run()
    statuses = Counter()
    (cores,) = deal(1, _most_threads(cells))
    for cell in cells:
        tell("start", cell, None)
        record = measure(cell, store, runner, cores, replace)
        statuses[record["status"]] += 1
        tell("done", cell, record)
    return statuses


class Chunks:
    """Deals cells to workers, so that what one worker remembers serves its next cell.

    Cells of one problem and seed share draws and references, so a worker is dealt all of them as one chunk.
    When no chunk is left, it takes the second half of the longest that another still has before it: all are
    busy until the end, however unequal the chunks are.
    """

    def __init__(self, cells: Iterable[Cell]):
        self._chunks = deque(deque(group) for _, group in groupby(cells, _shared))

    def deal(self, others: Iterable[deque[Cell]]) -> deque[Cell]:
        """A chunk for a worker that has none; ``others`` are those of the other workers. Empty at the end."""
        if self._chunks:
            return self._chunks.popleft()
        longest = max(others, key=len, default=deque())
        half = [longest.pop() for _ in range((len(longest) + 1) // 2)]
        return deque(reversed(half))

    def take_back(self, chunk: deque[Cell]) -> None:
        """What a worker that is no more has left; it is dealt next."""
        if chunk:
            self._chunks.appendleft(chunk)


@dataclass(eq=False)
class _Worker:
    process: Any  # of _SPAWN, whose type has no public name
    pipe: Connection
    number: int  # of its share of the cores
    ready: bool = False
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


class _Pool:
    def __init__(
        self,
        cells: list[Cell],
        store: Store,
        jobs: int,
        time_limit: float | None,
        tell: OnEvent,
        runner: Runner,
        replace: bool,
    ):
        self._store, self._jobs, self._time_limit = store, jobs, time_limit
        self._tell, self._runner, self._replace = tell, runner, replace
        self._chunks = Chunks(cells)
        self._cores = deal(min(jobs, len(cells)), _most_threads(cells))
        self._left = len(cells)  # cells without a record of this run
        self._workers: list[_Worker] = []
        self._idle_deaths = 0
        self._statuses: Counter[str] = Counter()

    def run(self) -> Counter[str]:
        try:
            while self._left:
                while len(self._workers) < min(self._jobs, self._left):
                    self._start()
                for worker in list(self._workers):
                    if worker.ready and worker.cell is None:
                        self._hand_out(worker)
                for pipe in wait([w.pipe for w in self._workers], self._patience()):
                    self._listen(next(w for w in self._workers if w.pipe is pipe))
                self._end_late()
        finally:
            self._end()
        return self._statuses

    def _start(self) -> None:
        pipe, theirs = _SPAWN.Pipe()
        number = min(set(range(len(self._cores))) - {w.number for w in self._workers})
        store, cores = self._store, self._cores[number]
        arguments = (theirs, store.root, store.study, self._runner, cores, self._replace)
        process = _SPAWN.Process(target=work, args=arguments, name="metabench-worker")
        process.start()
        theirs.close()  # so that the pipe ends with the worker
        self._workers.append(_Worker(process, pipe, number))

    def _hand_out(self, worker: _Worker) -> None:
        if not worker.chunk:
            worker.chunk = self._chunks.deal(w.chunk for w in self._workers if w is not worker)
        if not worker.chunk:
            return
        try:
            worker.pipe.send(worker.chunk[0])
        except OSError:  # it has died between two cells; the end of its pipe says so next
            return
        worker.cell, worker.since, worker.handed = worker.chunk.popleft(), time.monotonic(), timestamp()
        self._tell("start", worker.cell, None)

    def _patience(self) -> float | None:
        if self._time_limit is None:
            return None
        since = [w.since for w in self._workers if w.cell is not None]
        return max(0.0, min(since) + self._time_limit - time.monotonic()) if since else None

    def _listen(self, worker: _Worker) -> None:
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == "store":
            raise StoreError(content)
        worker.ready = True
        if kind == "done":
            self._done(worker, content)

    def _end_late(self) -> None:
        limit = self._time_limit
        for worker in list(self._workers):
            # A worker with something to say has made it at the last moment.
            if limit is None or worker.cell is None or worker.seconds() < limit or worker.pipe.poll():
                continue
            worker.kill()
            message = f"ended at the time limit of {limit:g} s (time_limit in the study file)"
            self._lose(worker, "timed_out", message, "TimeLimit")

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

    def _lose(self, worker: _Worker, status: str, message: str, kind: str) -> None:
        """Give the cell of a worker that is no more a record, and its next cells to others."""
        self._workers.remove(worker)
        worker.pipe.close()
        self._chunks.take_back(worker.chunk)
        if worker.cell is not None:
            written = self._store.read(worker.cell.id)
            if written is not None and written["started"] >= worker.handed:  # it died before it could tell
                self._done(worker, written)
                return
            reason = {"message": message, "type": kind, "traceback": None}
            record = unmeasured(
                self._store.study, worker.cell.id, worker.cell.description, status, reason, worker.seconds()
            )
            self._store.write(record, self._replace)
            self._done(worker, record)

    def _done(self, worker: _Worker, record: Record) -> None:
        cell, worker.cell = worker.cell, None
        assert cell is not None
        self._left -= 1
        self._idle_deaths = 0
        self._statuses[record["status"]] += 1
        self._tell("done", cell, record)

    def _end(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # an idle worker ends with its pipe
        for worker in self._workers:
            if worker.ready and worker.cell is None:
                worker.process.join(_GRACE_S)
            worker.kill()


def _most_threads(cells: Iterable[Cell]) -> int:
    return max((cell.description["threads"] for cell in cells), default=1)


def _shared(cell: Cell) -> str:
    return canonical([cell.description["problem"], cell.description["seed"]])
