"""Sweeps in worker processes: one cell can fail, hang, crash or be killed, and harms no other."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path

import psutil
import pytest
import torch

from bench import cores, launch, pool, processes
from bench.cells import Cell
from bench.chunks import Chunks
from bench.errors import UsageError
from bench.launch import run_cells, todo
from bench.pool import Lease
from bench.record import Store, StoreError
from tests.toy_plugins import HOARD, Unloadable, core_runner, toy_cell, toy_record, toy_runner, wrong_record

PATIENCE_S = 120.0  # for a slow machine; nothing here takes that long


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results", "demo")


def alive(pid: int) -> bool:
    """Whether a process still runs (one that is dead, but whose parent has not asked, does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def pid_in(path: Path) -> int:
    return int(path.read_text())


def status_of(store: Store, cell) -> str:
    return store.ids()[cell.id]


def test_todo(store):
    cells = [toy_cell(seed) for seed in range(5)]
    for cell, status in zip(cells, ["ok", "killed", "error", "declined"], strict=False):
        store.write(toy_record(cell, "demo") | {"status": status})
    assert todo(cells, store) == [cells[1], cells[4]]
    assert todo(cells, store, retry=True) == cells[1:]
    store.write(toy_record(cells[0], "demo")).write_text("{")  # half-written: set aside, to be done again
    assert todo(cells, store) == [cells[0], cells[1], cells[4]]


def test_here(store, tmp_path):
    """jobs=0: this process, the same records; a runner that raises or lies is an error of its cell only."""
    cells = [toy_cell(0), toy_cell(1, "raise", tmp_path), toy_cell(2)]
    told = []
    statuses = run_cells(
        [*cells, cells[0]], store, jobs=0, on_event=lambda *event: told.append(event), runner=toy_runner
    )
    assert statuses == Counter(ok=2, error=1)
    assert [(kind, cell) for kind, cell, _ in told] == [(k, c) for c in cells for k in ("start", "done")]
    assert [record and record["status"] for *_, record in told] == [None, "ok", None, "error", None, "ok"]
    failed = store.read(cells[1].id)
    assert failed is not None
    assert failed["reason"]["type"] == "ArithmeticError"
    assert failed["reason"]["message"] == "two and two make five"
    assert "_misbehave" in failed["reason"]["traceback"]
    assert failed["cell"] == cells[1].description
    assert store.read(cells[0].id) == toy_record(cells[0], "demo")


@pytest.mark.skipif(len(cores.available()) < 2, reason="needs two cores that can be bound")
@pytest.mark.parametrize("jobs", [0, 1])
def test_cells_run_on_as_many_cores_as_they_have_threads(store, jobs):
    before, one = os.sched_getaffinity(0), toy_cell(0)
    two = Cell("two", toy_cell(1).description | {"threads": 2})
    gpu = Cell("gpu", toy_cell(2).description | {"device": "cuda"})
    run_cells([one, two, gpu], store, jobs=jobs, runner=core_runner)
    got = {cell.id: store.read(cell.id)["environment"]["cores"] for cell in (one, two, gpu)}
    assert (len(got[one.id]), len(got["two"])) == (1, 2)
    assert set(got[one.id]) < set(got["two"]) <= before
    assert set(got["gpu"]) == before == os.sched_getaffinity(0)


def test_no_two_workers_share_a_core(monkeypatch):
    monkeypatch.setattr(cores, "available", lambda: [2, 3, 5, 7])
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda *_, percpu: [0, 0, 99, 1, 0, 50, 0, 0])
    assert cores.deal(4, 1) == [[2], [3], [5], [7]]
    assert cores.deal(2, 2) == [[2, 3], [5, 7]]
    assert cores.deal(1, 2) == [[7, 3]]  # those that are idle
    assert cores.deal(3, 2) == [[], [], []]  # too few: nobody is bound
    monkeypatch.setattr(cores, "available", list)
    assert cores.deal(1, 1) == [[]]


def test_runner_that_returns_another_cells_record(store):
    cell = toy_cell(0)
    assert run_cells([cell], store, jobs=0, runner=wrong_record) == Counter(error=1)
    assert store.ids() == {cell.id: "error"}


def test_runner_that_returns_what_json_cannot_hold(store):
    cell = toy_cell(0)
    run_cells([cell], store, jobs=0, runner=lambda cell, study: toy_record(cell, study) | {"x": {1, 2}})
    assert status_of(store, cell) == "error"


def test_full_disk_ends_the_sweep_with_one_clear_error(store, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        run_cells([toy_cell(0), toy_cell(1)], store, jobs=0, runner=toy_runner)


def test_worker_that_cannot_write_ends_the_sweep(tmp_path):
    cells = [toy_cell(0, "spoil", tmp_path), toy_cell(1)]
    with pytest.raises(StoreError, match=r"cannot write .*spoiled.*Not a directory"):
        run_cells(cells, Store(tmp_path, "spoiled"), jobs=1, runner=toy_runner)


def test_wrong_number_of_jobs(store):
    with pytest.raises(UsageError, match="jobs = -1 is not possible; allowed: 0"):
        run_cells([], store, jobs=-1, runner=toy_runner)


def test_nothing_to_do(store):
    assert run_cells([], store, jobs=2, runner=toy_runner) == Counter()


def test_sweep_survives_what_its_cells_do(store, tmp_path, capfd):
    """Two workers; cells that kill their worker, end it, hang, raise and print; then a second run."""
    good = [toy_cell(seed) for seed in range(4)]
    kill, leave, hang, fail, talk = (
        toy_cell(9, action, tmp_path) for action in ("kill-once", "exit-once", "sleep", "raise", "print")
    )
    cells = [good[0], kill, good[1], talk, leave, good[2], fail, good[3], hang]
    told = []
    statuses = run_cells(
        cells,
        store,
        jobs=2,
        time_limit=3.0,
        on_event=lambda *event: told.append(event),
        runner=toy_runner,
    )
    assert statuses == Counter(ok=5, killed=2, timed_out=1, error=1)
    assert {cell.id: status_of(store, cell) for cell in cells} == store.ids()
    assert len(store.ids()) == len(cells)

    killed = store.read(kill.id)
    assert killed is not None
    assert killed["reason"]["type"] == "SIGKILL"
    assert "ended by SIGKILL" in killed["reason"]["message"]
    assert "out-of-memory killer" in killed["reason"]["message"]
    assert killed["cell"] == kill.description
    assert not alive(pid_in(tmp_path / "helper"))  # what the dead worker had started is gone too
    left = store.read(leave.id)
    assert left is not None
    assert "ended itself with exit code 3" in left["reason"]["message"]
    late = store.read(hang.id)
    assert late is not None
    assert (late["status"], late["reason"]["type"]) == ("timed_out", "TimeLimit")
    assert "time limit of 3 s" in late["reason"]["message"]
    assert late["seconds"] >= 3.0
    assert not alive(pid_in(tmp_path / "sleep-9"))

    for cell in cells:
        events = [(kind, record and record["status"]) for kind, of, record in told if of == cell]
        assert events == [("start", None), ("done", status_of(store, cell))]
    out, err = capfd.readouterr()
    assert out == ""  # a worker's output stays out of the parent's
    assert "a plugin that talks" in err

    here = Store(tmp_path / "here", "demo")
    run_cells(good, here, jobs=0, runner=toy_runner)
    assert [store.read(c.id) for c in good] == [here.read(c.id) for c in good]

    assert todo(cells, store) == [kill, leave]
    told.clear()
    again = todo(cells, store)
    assert run_cells(
        again, store, jobs=0, on_event=lambda *e: told.append(e[1]), runner=toy_runner
    ) == Counter(ok=2)
    assert set(told) == {kill, leave}
    assert todo(cells, store) == []


def test_interrupt_ends_the_workers_and_keeps_what_is_finished(store, tmp_path):
    """A real SIGINT in the middle of a sweep (the worker sends it to its parent)."""
    cells = [toy_cell(0), toy_cell(1), toy_cell(2, "interrupt", tmp_path), toy_cell(3)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job
    try:
        with pytest.raises(KeyboardInterrupt):
            run_cells(cells, store, jobs=1, runner=toy_runner)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not alive(pid_in(tmp_path / "interrupt-2"))
    assert todo(cells, store) == cells[2:]
    here = Store(tmp_path / "here", "demo")
    run_cells(cells[:2], here, jobs=0, runner=toy_runner)
    assert store.records() == here.records()  # one worker writes the same as none


DRIVER = """
import sys
from pathlib import Path
from bench.launch import run_cells
from bench.record import Store
from tests.toy_plugins import toy_cell, toy_runner

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run_cells([toy_cell(0), toy_cell(1, "sleep", folder)], Store(folder, "demo"), jobs=1, runner=toy_runner)
"""


def test_workers_end_when_their_parent_is_killed(store, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    root = Path(launch.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])}
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", tmp_path], env=environment)
    try:
        wait_for(lambda: (tmp_path / "sleep-1").exists() and (tmp_path / "sleep-1").read_text())
    finally:
        driver.kill()
        driver.wait()
    worker = pid_in(tmp_path / "sleep-1")
    wait_for(lambda: not alive(worker))
    assert Store(tmp_path, "demo").ids() == {toy_cell(0).id: "ok"}


def test_workers_that_cannot_start_end_the_sweep(store, monkeypatch):
    """Instead of being started for ever, or taking the blame to the cells."""
    monkeypatch.setattr(pool, "MOST_IDLE_DEATHS", 1)
    with pytest.raises(UsageError, match=r"die before they get a cell; the last one .* exit code 7"):
        run_cells([toy_cell(0)], store, jobs=1, runner=Unloadable())
    assert store.ids() == {}


def test_a_worker_that_outgrows_its_share_is_ended(store, tmp_path):
    """With both numbers in the record; what earlier cells have left behind is not the next one's fault."""
    hoard, keep = (
        toy_cell(1, "hoard", tmp_path),
        [toy_cell(2, "keep", tmp_path), toy_cell(3, "keep", tmp_path)],
    )
    told = []
    statuses = run_cells(
        [toy_cell(0), hoard, *keep, toy_cell(4)],
        store,
        on_event=lambda kind, cell, record: told.append((kind, cell)),
        runner=toy_runner,
        lease=Lease(memory=HOARD),
    )
    assert statuses == Counter(ok=4, out_of_memory=1)
    record = store.read(hoard.id)
    assert record["reason"]["type"] == "MemoryLimit"
    limit = re.escape(f"{HOARD / 2**30:.2f}")
    assert re.fullmatch(
        rf"ended at [0-9.]+ GiB .*, above the {limit} GiB that .*", record["reason"]["message"]
    )
    assert record["reason"]["resident_bytes"] > HOARD
    assert not alive(pid_in(tmp_path / "hoard-1"))
    assert told.count(("start", hoard)) == 2  # in a worker of its own before it is blamed
    assert told.count(("given_up", hoard)) == 1


def test_a_lease_that_ends_lets_running_cells_finish(store, tmp_path):
    """What is running when the end is known is finished if it can be; nothing else is begun."""
    cells = [toy_cell(0, "nap", tmp_path), toy_cell(1, "sleep", tmp_path), toy_cell(2), toy_cell(3)]
    end: list[float] = []
    told = []

    def on_event(kind, cell, record):
        told.append((kind, cell))
        if kind == "start" and len(told) == 2:
            end.append(time.monotonic() + 6.0)

    lease = Lease(until=lambda: end[0] if end else None)
    statuses = run_cells(cells, store, jobs=2, on_event=on_event, runner=toy_runner, lease=lease)
    assert statuses == Counter(ok=1)
    assert store.ids() == {cells[0].id: "ok"}
    assert told[-1] == ("given_up", cells[1])
    assert {cell for _, cell in told} == set(cells[:2])
    assert not alive(pid_in(tmp_path / "sleep-1"))


def test_a_lease_may_leave_cells_out_and_takes_signals_from_workers(store, tmp_path):
    cells = [toy_cell(seed) for seed in range(3)] + [toy_cell(3, "nap", tmp_path)]

    def signal_all(kind, cell, record):
        if kind == "start" and cell == cells[3]:
            wait_for((tmp_path / "nap-3").exists)
            for number in (signal.SIGUSR2, signal.SIGTERM):
                os.kill(int((tmp_path / "nap-3").read_text()), number)

    lease = Lease(wanted=lambda cell: cell != cells[1], bind=False)
    assert run_cells(cells, store, on_event=signal_all, runner=toy_runner, lease=lease) == Counter(ok=3)
    assert set(store.ids()) == {cell.id for cell in cells} - {cells[1].id}


def test_cuda_devices_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-a,2,3,7")
    assert cores.devices(2) == ["0,GPU-a", "2,3"]
    assert cores.devices(6) == [None] * 6
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert cores.devices(2) == [None, None]


def test_a_worker_that_has_lost_its_device_runs_no_other_cell(store, tmp_path):
    actions = ["print", "lose", "print"]
    cells = [toy_cell(seed, action, tmp_path) for seed, action in enumerate(actions)]
    assert run_cells(cells, store, runner=toy_runner) == Counter(ok=3)
    before, broken, after = (pid_in(tmp_path / f"{action}-{seed}") for seed, action in enumerate(actions))
    assert before == broken != after
    assert not alive(broken)


def test_this_process_having_lost_its_device_runs_no_other_cell(store, monkeypatch):
    cells = [toy_cell(0), toy_cell(1)]
    monkeypatch.setattr(launch, "lost", lambda device: True)
    with pytest.raises(UsageError, match=f"cell {cells[0].id} has cost this process its CUDA device"):
        run_cells(cells, store, jobs=0, runner=toy_runner)
    assert store.ids() == {cells[0].id: "ok"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_error_of_cuda_that_does_not_go_away_is_of_its_cell_alone(store, tmp_path):
    actions = ["print", "poison", "print"]
    cells = [toy_cell(seed, action, tmp_path) for seed, action in enumerate(actions)]
    cells = [Cell(cell.id, cell.description | {"device": "cuda"}) for cell in cells]
    assert run_cells(cells, store, runner=toy_runner) == Counter(ok=2, error=1)
    reason = store.read(cells[1].id)["reason"]
    assert reason["message"] == "CUDA error: device-side assert triggered"
    before, broken, after = (pid_in(tmp_path / f"{action}-{seed}") for seed, action in enumerate(actions))
    assert before == broken != after


def test_memory_of_a_process_is_that_of_its_family():
    script = "import subprocess; subprocess.run(['sh', '-c', 'sleep 600; true'])"
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as process:
        try:
            wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 2)
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            expected = sum(one.memory_info().rss for one in family)
            assert processes.resident_bytes(process.pid) == pytest.approx(expected, rel=0.05)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert processes.resident_bytes(process.pid) == 0


def test_chunks_keep_groups_together_and_leave_nobody_idle():
    cells = [toy_cell(seed, action) for seed in (0, 1) for action in "abcdefg"]
    chunks = Chunks(cells)
    one, two = chunks.deal([]), chunks.deal([])
    assert (list(one), list(two)) == (cells[:7], cells[7:])
    two.popleft()  # being run
    assert list(chunks.deal([one, two])) == cells[3:7]  # the second half of the longest
    assert list(one) == cells[:3]
    assert list(chunks.deal([deque(), deque(cells[:1])])) == cells[:1]
    assert list(chunks.deal([deque()])) == []
    chunks.take_back(two)
    assert list(chunks.deal([one])) == cells[8:]


def test_chunks_deal_every_cell_once():
    cells = [
        toy_cell(seed, action, problem=problem) for problem in "xy" for seed in (0, 1) for action in "abcde"
    ]
    chunks, hands, played = Chunks(cells), [deque() for _ in range(3)], []
    for turn in range(200):
        hand = hands[turn % 2 if turn < 10 else turn % 3]  # the third comes late
        if not hand:
            hand.extend(chunks.deal(h for h in hands if h is not hand))
        if hand:
            played.append(hand.popleft())
    assert len(played) == len(cells)
    assert set(played) == set(cells)
