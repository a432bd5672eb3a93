"""The only clocks and memory meters. Each is its own pass, so that none disturbs another."""

import ctypes
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.failures import PassFailedError

Run = Callable[[], object]
N_WARMUP = 2
# glibc then gives freed memory back at once, and the resident peak follows what is alive to a few percent.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Put the wall-clock seconds of the block into ``seconds[name]``, also when it raises."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - start


def time_interleaved(
    run: Run, reference: Run, repeats: int, device: torch.device, n_warmup: int = N_WARMUP
) -> dict[str, Any]:
    """Seconds of ``run`` next to ``reference``, and of ``reference`` once more as an A/A control.

    A round times the three in an order that rotates from round to round: on a shared machine only samples
    taken side by side compare. Garbage is collected between samples, never inside one. Returns all samples:
    `samples_s`, `reference_s`, `control_s` (lists of ``repeats`` numbers), `cpu_s`, the seconds of CPU that
    this process spent in each of the first, over all threads, and `n_warmup`, the rounds before.
    """
    runs = {"samples_s": run, "reference_s": reference, "control_s": reference}
    sample = _cuda_sample if device.type == "cuda" else _cpu_sample
    times: dict[str, list[float]] = {name: [] for name in (*runs, "cpu_s")}
    order = list(runs)
    with _no_collection():
        for number in range(-n_warmup, repeats):
            for name in order:
                gc.collect()
                before = time.process_time()
                seconds = sample(runs[name])
                spent = time.process_time() - before
                if number >= 0:
                    times[name].append(seconds)
                    if name == "samples_s":
                        times["cpu_s"].append(spent)
            order = order[1:] + order[:1]
    return {**times, "n_warmup": n_warmup}


def median_seconds(runs: Sequence[Run], rounds: int, device: torch.device) -> list[float]:
    """The median of every run over ``rounds`` rounds of all, after `N_WARMUP` others: to find one's way."""
    sample = _cuda_sample if device.type == "cuda" else _cpu_sample
    with _no_collection():
        times = [[sample(run) for run in runs] for _ in range(N_WARMUP + rounds)][N_WARMUP:]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _cpu_sample(run: Run) -> float:
    start = time.perf_counter()
    result = run()  # named, so that freeing the result is not timed
    seconds = time.perf_counter() - start
    del result
    return seconds


def _cuda_sample(run: Run) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    result = run()
    end.record()
    torch.cuda.synchronize()
    del result
    return start.elapsed_time(end) / 1e3


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the cyclic collector off; what exists already is exempt from the block's own `gc.collect`."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


class TensorBytes(TorchDispatchMode):
    """Bytes of the tensor storages that operations inside the block create: alive now and at the peak.

    A storage counts from the operation that returns it, unless one of the operation's arguments owns it
    (views and in-place results), until its last tensor dies; what existed before the block never counts.
    Not seen: what a kernel allocates for itself, and what a compiled graph keeps inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self._alive: dict[int, tuple[weakref.ref, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given: set[int] | None = None
        for tensor in _strided(result):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._alive:
                self._alive[key], old = (self._alive[key][0], size), self._alive[key][1]
                self._add(size - old)  # an operation may resize its output
                continue
            if given is None:
                # torch.tensor(data) allocates out of sight and hands the result to lift_fresh.
                fresh = func is torch.ops.aten.lift_fresh.default
                arguments = () if fresh else _strided((args, kwargs))
                given = {argument.untyped_storage()._cdata for argument in arguments}
            if key not in given:
                self._alive[key] = (weakref.ref(storage, partial(self._free, key)), size)
                self._add(size)
        return result

    def _add(self, size: int) -> None:
        self.current += size
        self.peak = max(self.peak, self.current)

    def _free(self, key: int, _: weakref.ref) -> None:
        self.current -= self._alive.pop(key)[1]


def _strided(tree: object) -> Iterator[Tensor]:
    return (x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.layout is torch.strided)


def tensor_bytes(run: Run, device: torch.device) -> dict[str, Any]:
    """Peak bytes of tensors above what existed before the call: `peak` and the `meter` that read it.

    The count is the same in every run; cyclic garbage stays alive in it, because the collector's moment is
    chance. On CUDA it is what was asked of the caching allocator, scratch space of kernels included;
    `allocated_peak` is what that gave, rounded up by what blocks it had, `reserved_peak` what it took from
    the device.
    """
    with _no_collection():
        if device.type == "cuda":
            return _cuda_bytes(run, device)
        with TensorBytes() as meter:
            result = run()
        del result
    gc.collect()
    return {"peak": meter.peak, "meter": "dispatch"}


def _cuda_bytes(run: Run, device: torch.device) -> dict[str, Any]:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_stats(device)
    with torch.autograd.set_multithreading_enabled(False):  # else it is chance when its thread lets go
        result = run()
    torch.cuda.synchronize(device)
    after = torch.cuda.memory_stats(device)
    del result
    names = {"peak": "requested", "allocated_peak": "allocated", "reserved_peak": "reserved"}
    ends = {name: f"{kind}_bytes.all" for name, kind in names.items()}
    found = {name: after[f"{end}.peak"] - before[f"{end}.current"] for name, end in ends.items()}
    return {**found, "meter": "cuda_requested"}


def resident_missing() -> str | None:
    """Why the resident peak cannot be read on this machine; None where it can."""
    try:
        _reset_resident_peak()
        _resident_peak()
    except (OSError, KeyError) as error:
        return f"no resettable resident peak (VmHWM, clear_refs) on {sys.platform}: {error}"
    return None


def resident_here(run: Run) -> dict[str, int]:
    """Resident peak of this process during ``run``, in bytes: `peak_bytes`, `before_bytes`, `growth_bytes`.

    One call goes ahead unmeasured, so that libraries are loaded and thread pools started. Meant for a fresh
    process started with the allocator settings `MALLOC`: see `resident_growth`.
    """
    run()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    _reset_resident_peak()
    before = _resident_peak()
    run()
    peak = _resident_peak()
    return {"peak_bytes": peak, "before_bytes": before, "growth_bytes": peak - before}


def _reset_resident_peak() -> None:
    # ru_maxrss cannot be reset, and it survives fork and exec.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident_peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return int(status["VmHWM"].split()[0]) * 1024


def resident_growth(
    description: dict[str, Any], modules: list[str], time_limit: float | None = None
) -> dict[str, Any]:
    """Run the cell that ``description`` describes in a fresh process and return its resident peak.

    ``modules`` are imported there first (those that define the cell's plugins). Returns what `resident_here`
    returns, or `{"missing": reason}` where the machine has no such meter. Raises `PassFailedError` if the
    process fails, is killed, or takes longer than ``time_limit`` seconds.
    """
    missing = resident_missing()
    if missing:
        return {"missing": missing}
    path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "bench.resident"],
            input=json.dumps({"cell": description, "modules": modules}),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=time_limit,
            env={**os.environ, **MALLOC, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"the process of the resident pass was ended after {time_limit:g} s"
        raise PassFailedError("timed_out", _reason(message, "TimeoutExpired")) from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = "; the kernel's out-of-memory killer does this" if name == "SIGKILL" else ""
        message = f"the process of the resident pass was killed by {name}{hint}"
        raise PassFailedError("killed", _reason(message, name, child.stderr))
    if child.returncode > 0:
        message = f"the process of the resident pass ended with exit code {child.returncode}"
        raise PassFailedError("error", _reason(message, "ExitCode", child.stderr))
    answer = json.loads(child.stdout)
    if "failed" in answer:
        raise PassFailedError(*answer["failed"])
    return answer


def _reason(message: str, kind: str, output: str = "") -> dict[str, Any]:
    return {"message": message, "type": kind, "traceback": output[-4000:] or None}
