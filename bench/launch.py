"""Which cells of a study are to do, and running them: in this process, or in a pool of workers."""

from collections import Counter
from collections.abc import Iterable, Sequence

from bench.cells import Cell, canonical
from bench.cores import deal
from bench.errors import UsageError
from bench.failures import lost
from bench.pool import Lease, OnEvent, Pool, most_threads
from bench.record import Store
from bench.run import run_cell
from bench.worker import Runner, measure

AGAIN = (None, "killed")  # the states that are to do without being asked for: no record, or a worker's end


def todo(cells: Iterable[Cell], store: Store, retry: bool = False) -> list[Cell]:
    """The cells without a record, those whose worker was killed, and with ``retry`` all that are not ok."""
    status = store.ids()
    return [c for c in cells if status.get(c.id) in AGAIN or (retry and status[c.id] != "ok")]


def some(cells: Sequence[Cell], limit: int | None) -> list[Cell]:
    """At most ``limit`` of ``cells``, in their order, of as many kinds as that allows; all of them if None.

    Cells that differ in nothing but the seed are of one kind: the first of every kind come before any second.
    """
    if limit is None:
        return list(cells)
    seen: Counter[str] = Counter()
    turns: dict[Cell, int] = {}
    for cell in cells:
        kind = canonical({key: value for key, value in cell.description.items() if key != "seed"})
        turns[cell] = seen[kind]
        seen[kind] += 1
    chosen = set(sorted(cells, key=turns.__getitem__)[:limit])
    return [cell for cell in cells if cell in chosen]


def run_cells(
    cells: Iterable[Cell],
    store: Store,
    jobs: int = 1,
    time_limit: float | None = None,
    on_event: OnEvent | None = None,
    runner: Runner = run_cell,
    replace: bool = False,
    lease: Lease | None = None,
) -> Counter[str]:
    """Run cells and store their records; counts the statuses.

    ``jobs`` worker processes, or with 0 this one (for debuggers: no time limit, nothing survives a crash, or
    an error that CUDA does not recover from).
    A cell that takes more than ``time_limit`` seconds is ended. ``on_event`` hears ("start", cell, None) and
    ("done", cell, record), in between ("progress", cell, {"done": n, "steps": m}) of one that takes steps, or
    ("given_up", cell, None) of a cell that gets no record now or is begun anew.
    ``runner`` must be importable by name; it is given the cell and the study's name. ``replace`` lets a
    record take the place of one that is ok. ``lease`` bounds what the workers may take: see `Lease`.

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
        return Pool(cells, store, jobs, time_limit, tell, runner, replace, lease).run()
    statuses = Counter()
    (cores,) = deal(1, most_threads(cells))
    for cell in cells:
        tell("start", cell, None)
        progress = lambda done, steps, cell=cell: tell("progress", cell, {"done": done, "steps": steps})  # noqa: E731
        record = measure(cell, store, runner, cores, replace, progress)
        statuses[record["status"]] += 1
        tell("done", cell, record)
        if lost(cell.description["device"]):
            raise UsageError(
                f"cell {cell.id} has cost this process its CUDA device; the others run on with --jobs 1"
            )
    return statuses
