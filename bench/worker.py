"""A worker process: runs the cells that come through its pipe, one at a time, and stores their records."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from bench.cells import Cell
from bench.cores import bound
from bench.desk import Desk
from bench.disk import StoreError
from bench.failures import classify, lost
from bench.processes import die_with_parent, ignore_scheduler
from bench.record import MEASURED, Record, Store, unmeasured
from bench.record.trained import drop_checkpoint

Runner = Callable[[Cell, str, Desk], Record]
Progress = Callable[[int, int], None]
TELL_S = 1.0  # between two words on the progress of a cell


def measure(
    cell: Cell,
    store: Store,
    runner: Runner,
    cores: Sequence[int] = (),
    replace: bool = False,
    progress: Progress = lambda done, steps: None,
) -> Record:
    """Run one cell and store its record, one of the failure if it fails. Only `StoreError` passes.

    On the CPU it runs on as many of ``cores`` as it has threads. ``replace`` as in `Store.write`.
    """
    start = time.monotonic()
    own = cores if cell.description["device"] == "cpu" else ()
    try:
        with bound(own, cell.description["threads"]):
            record = runner(cell, store.study, Desk(store.folder, progress, anew=replace))
        if record["id"] != cell.id:
            raise ValueError(f"the runner was given cell {cell.id} and returned a record of {record['id']}")
        store.write(record, replace)
        if record["status"] in MEASURED:
            drop_checkpoint(store.folder, cell.id)
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001  one cell never ends a sweep
        status, reason = classify(error)
        seconds = time.monotonic() - start
        record = unmeasured(store.study, cell.id, cell.description, status, reason, seconds)
        store.write(record, replace)
    return record


def work(
    pipe: Connection,
    root: Path,
    study: str,
    runner: Runner,
    cores: Sequence[int],
    replace: bool,
    leased: bool,
    devices: str | None,
) -> None:
    """The life of a worker on ``cores``: ("ready", None), then for every cell received ("done", record).

    Before that, now and then, ("progress", (done, steps)) of a cell that takes steps. ("last", record) of a
    cell after which this process can run no other: it has lost its CUDA device.
    ("store", message) means that records cannot be written. Ends when the pipe does or the parent dies.
    ``leased`` leaves a scheduler's signals to the parent; ``devices`` are the CUDA devices it is to see.
    """
    if leased:
        ignore_scheduler()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices  # CUDA reads it at first use
    os.setsid()  # a group of its own: Ctrl-C is the parent's to handle, and its helpers can be killed with it
    os.dup2(2, 1)  # what a plugin prints must not mix with the parent's output
    die_with_parent()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    store = Store(root, study)
    pipe.send(("ready", None))
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            return
        try:
            record = measure(cell, store, runner, cores, replace, _telling(pipe))
            pipe.send(("last" if lost(cell.description["device"]) else "done", record))
        except StoreError as error:
            pipe.send(("store", str(error)))


def _telling(pipe: Connection) -> Progress:
    """Passes progress on, but not more often than somebody can read it."""
    told = time.monotonic()

    def tell(done: int, steps: int) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            pipe.send(("progress", (done, steps)))

    return tell


def _die_with_parent() -> None:
    # The pipe's end is noticed between two cells only; this also ends a worker in the middle of a long one.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
