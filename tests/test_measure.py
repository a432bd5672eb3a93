"""The clock and the meter of the resident peak, against what is known by construction."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from bench import measure
from bench.measure import tensor_bytes, time_interleaved

CPU = torch.device("cpu")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
linux = pytest.mark.skipif(measure.resident_missing() is not None, reason=str(measure.resident_missing()))


# --- clock


def test_samples_are_kept_apart_and_rotate():
    log = []
    times = time_interleaved(lambda: log.append("m"), lambda: log.append("r"), 6, CPU, n_warmup=3)
    assert {name: len(v) for name, v in times.items() if name != "n_warmup"} == {
        "samples_s": 6, "reference_s": 6, "control_s": 6, "cpu_s": 6,
    }  # fmt: skip
    assert times["n_warmup"] == 3
    assert len(log) == 9 * 3
    rounds = ["".join(log[i : i + 3]) for i in range(0, 27, 3)]
    assert rounds[:4] == ["mrr", "rrm", "rmr", "mrr"]  # the method's place moves from round to round
    assert all(seconds > 0 for seconds in times["samples_s"])


def test_the_clock_sees_the_run_and_nothing_else():
    class Slow:
        def __del__(self):
            time.sleep(0.05)

    times = time_interleaved(lambda: time.sleep(0.01), Slow, 2, CPU, n_warmup=0)
    assert min(times["samples_s"]) >= 0.01
    assert min(times["reference_s"] + times["control_s"]) < 0.05  # freeing the result is not in it


def test_seconds_of_cpu_are_those_spent_and_not_those_slept():
    """By the process's own clock: a loop that runs until 0.05 s of it have gone, and a sleep."""

    def work():
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    busy = time_interleaved(work, lambda: None, 2, CPU, n_warmup=0)
    assert min(busy["cpu_s"]) >= 0.05
    idle = time_interleaved(lambda: time.sleep(0.1), work, 2, CPU, n_warmup=0)
    assert max(idle["cpu_s"]) < 0.05


def test_no_collection_inside_a_sample():
    collected, enabled = [], []

    def run():
        enabled.append(gc.isenabled())
        running.append(True)
        for _ in range(50_000):  # enough to wake the collector up
            cycle = []
            cycle.append(cycle)
        running.clear()

    running: list[bool] = []
    watch = lambda phase, info: collected.append(bool(running))  # noqa: E731
    gc.callbacks.append(watch)
    try:
        time_interleaved(run, run, 1, CPU, n_warmup=0)
        inside = any(collected)
        frozen = gc.get_freeze_count()
        assert gc.isenabled()
        gc.disable()
        time_interleaved(run, run, 1, CPU, n_warmup=0)
        assert not gc.isenabled()  # as it was found
    finally:
        gc.enable()
        gc.callbacks.remove(watch)
    assert collected
    assert not inside
    assert not any(enabled)
    assert frozen == 0


def test_a_failing_run_leaves_the_collector_on():
    def fail():
        raise ArithmeticError

    for meter in (lambda: time_interleaved(fail, fail, 1, CPU), lambda: tensor_bytes(fail, CPU)):
        with pytest.raises(ArithmeticError):
            meter()
        assert gc.isenabled()


def test_stopwatch_stops_also_on_failure():
    seconds = {}
    with pytest.raises(ArithmeticError), measure.stopwatch(seconds, "x"):
        raise ArithmeticError
    assert seconds["x"] > 0


# --- resident peak


@linux
def test_resident_peak_sees_an_allocation():
    made = measure.resident_here(lambda: torch.zeros(100 * 2**20, dtype=torch.uint8))
    assert made["growth_bytes"] == made["peak_bytes"] - made["before_bytes"]
    assert made["growth_bytes"] == pytest.approx(100 * 2**20, rel=0.05)


def test_without_the_meter_there_is_a_reason(monkeypatch):
    def fail():
        raise PermissionError("clear_refs is read-only")

    monkeypatch.setattr(measure, "_reset_resident_peak", fail)
    assert "clear_refs" in measure.resident_growth({}, [])["missing"]


@linux
def test_the_child_dies_with_its_parent(tmp_path):
    child = "from bench.processes import die_with_parent; die_with_parent(); import os, time; "
    child += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    started = subprocess.Popen([sys.executable, "-c", parent])
    pid = ""
    deadline = time.monotonic() + 60
    while not pid and time.monotonic() < deadline:
        time.sleep(0.05)
        pid = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    started.send_signal(signal.SIGKILL)
    started.wait()
    while time.monotonic() < deadline:
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the child outlived its parent")


# --- CUDA


@cuda
def test_cuda_clock_waits_for_the_device():
    x = torch.randn(4096, 4096, device="cuda")
    times = time_interleaved(lambda: x @ x, lambda: x[:1] @ x, 3, torch.device("cuda"))
    assert min(times["samples_s"]) > 2 * max(times["reference_s"])
