"""A program for `test_store_faults`: several processes write and compact one store, or are killed at it.

    python tests/store_killing.py kill FOLDER KILLS SEED
    python tests/store_killing.py crowd FOLDER WORKERS COMPACTORS CELLS SEED

Prints one line; raises where something is lost, doubled or damaged. A process of its own, for it forks.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import Store
from bench.record.verify import verify
from tests.toy_records import true_record

CELLS, WRITES, COMPACTIONS = 20, 8, 3
# (seed of the cell, status, value, whether it replaces)
Write = tuple[int, str, float, bool]


class Model:
    """What may be in the store: for every cell the values that its record may have, and those set aside."""

    def __init__(self) -> None:
        self.records: dict[int, set[tuple[str, float] | None]] = {}
        self.repeated: set[float] = set()

    def expect(self, write: Write, done: bool) -> None:
        """A write that is ``done``, or that was cut off and may have done its work or not."""
        seed, status, value, replace = write
        after: set[tuple[str, float] | None] = set()
        for before in self.records.get(seed, {None}):
            if replace or before is None or before[0] != "ok":
                after.add((status, value))
            else:
                after.add(before)
                if done:
                    self.repeated.add(value)
            if not done:
                after.add(before)
        self.records[seed] = after


def rounds(rng: random.Random) -> Iterator[list[Write]]:
    """The writes of each round, no value twice."""
    value = 0.0
    while True:
        writes = []
        for _ in range(WRITES):
            value += 1
            status = rng.choice(["ok", "error", "error", "killed"])
            writes.append((rng.randrange(CELLS), status, value, rng.random() < 0.3))
        yield writes


@contextmanager
def dying_at(operation: int | None) -> Iterator[None]:
    """This process kills itself at that operation on files, counted from 0."""
    count = 0

    def dying(real: Callable) -> Callable:
        def call(*arguments, **options):
            nonlocal count
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return real(*arguments, **options)

        return call

    for name in ("link", "rename", "replace", "unlink", "fsync", "mkdir", "open", "utime"):
        setattr(os, name, dying(getattr(os, name)))
    yield


def forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a child; returns its process id. It ends with 1 if the work raises, and says what."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except Exception:  # noqa: BLE001  whatever it is
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def kill(folder: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    os.fsync = lambda descriptor: None  # a killed process leaves the page cache as it is
    model, killed, number = Model(), {"writer": 0, "compactor": 0}, 0
    log = folder / "log"
    for writes in rounds(rng):
        number += 1
        log.write_bytes(b"")
        points = {role: rng.choice([None, rng.randrange(100)]) for role in killed}

        def write(writes: list[Write] = writes, points: dict = points) -> None:
            out = os.open(log, os.O_WRONLY | os.O_APPEND)
            store = Store(folder, "demo")
            with dying_at(points["writer"]):
                for one in writes:
                    cell, status, value, replace = one
                    store.write(true_record(cell, status, value), replace)
                    os.write(out, b"x")

        def compact(points: dict = points) -> None:
            with dying_at(points["compactor"]):
                for _ in range(COMPACTIONS):
                    store = Store(folder, "demo")
                    if store.ids():
                        store.compact()

        children = {"writer": forked(write), "compactor": forked(compact)}
        # Where no operation was drawn the blow comes from outside, after a while.
        outside = [role for role in children if points[role] is None]
        for role in rng.sample(outside, len(outside)):
            time.sleep(rng.random() * 0.02)
            os.kill(children[role], signal.SIGKILL)
        for role, child in children.items():
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed[role] += 1
            elif os.waitstatus_to_exitcode(status):
                raise SystemExit(f"round {number}: the {role} failed")
        done = len(log.read_bytes())
        for i, one in enumerate(writes[: done + 1]):
            model.expect(one, i < done)
        examine(Store(folder, "demo"), model, number)
        if sum(killed.values()) >= kills:
            break
    store = Store(folder, "demo")
    store.compact()
    examine(store, model, number)
    assert not list(store.loose.folder.glob("*.json"))
    total = sum(killed.values())
    print(f"{total} kills ({killed['writer']} of the writer) in {number} rounds, {len(store.ids())} cells")


def examine(store: Store, model: Model, number: int) -> None:
    """Nothing lost, nothing doubled, nothing damaged; what was seen is what is expected from now on."""
    found = list(store.each())
    seen = {record["cell"]["seed"]: (record["status"], record["accuracy"]["x"][0]) for record in found}
    assert len(found) == len(seen) == len(store.ids()), f"round {number}: a cell is doubled"
    for seed, allowed in model.records.items():
        assert seen.get(seed) in allowed, f"round {number}: cell {seed} is {seen.get(seed)}, not of {allowed}"
        model.records[seed] = {seen.get(seed)}
    assert store.ids() == {record["id"]: record["status"] for record in found}
    verdict = verify(store)
    assert verdict.damaged == [], f"round {number}: {verdict.damaged}"
    assert store.set_aside == []
    repeated = repeated_values(store)
    assert model.repeated <= repeated, (
        f"round {number}: repeated records {model.repeated - repeated} are lost"
    )
    firsts = {value for status, value in seen.values() if status == "ok"}
    assert not repeated & firsts, f"round {number}: {repeated & firsts} are first and repeated"


def repeated_values(store: Store) -> set[float]:
    """The values of all repeated records."""
    texts = [path.read_text() for path in (store.folder / "repeated").glob("*.json")]
    return {json.loads(text)["accuracy"]["x"][0] for text in texts}


def crowd(folder: Path, workers: int, compactors: int, cells: int, seed: int) -> None:
    """All workers write all cells at once, while the records are compacted: every record is found once."""

    def write(worker: int) -> None:
        # Four at a time write the same cell at nearly the same moment.
        order = random.Random(seed + worker // 4).sample(range(cells), cells)
        store = Store(folder, "demo")
        for cell in order:
            store.write(true_record(cell, "ok", float(worker * cells + cell)))

    def compact() -> None:
        while not (folder / "stop").exists():
            store = Store(folder, "demo")
            if store.ids():
                store.compact()

    writing = [forked(lambda worker=worker: write(worker)) for worker in range(workers)]
    compacting = [forked(compact) for _ in range(compactors)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in writing]
    (folder / "stop").touch()
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in compacting]
    assert codes == [0] * (workers + compactors), codes
    store = Store(folder, "demo")
    verdict = verify(store)
    assert (verdict.damaged, store.set_aside) == ([], [])
    first = [record["accuracy"]["x"][0] for record in store.each()]
    repeated = repeated_values(store)
    assert len(first) == len(store.ids()) == cells
    assert not set(first) & repeated, "a record is first and repeated"
    missing = set(map(float, range(workers * cells))) - set(first) - repeated
    assert not missing, f"{len(missing)} records are lost"
    print(f"{workers * cells} records of {cells} cells, {len(repeated)} of them repeated")


if __name__ == "__main__":
    what, where, *numbers = sys.argv[1:]
    {"kill": kill, "crowd": crowd}[what](Path(where), *map(int, numbers))
