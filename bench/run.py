"""One cell: draw its inputs, run its method, measure in separate passes, classify every failure."""

import json
import os
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench import accuracy, assumptions, cores, course, inputs, measure, numerics, registry, start, switches
from bench.api import Bilevel, Estimate
from bench.at_once import usual
from bench.cells import Cell
from bench.desk import Desk
from bench.failures import classify
from bench.record import SCHEMA, Record, timestamp
from bench.reference import Reference, absent, implicit_reference, maml_reference
from bench.spec import PATH_POINTS, TRAIN

_NO_DESK = Desk()
REFERENCE_METHOD = "fomaml"  # what times are compared with; by name, the harness knows no method
# The fresh process of the resident pass starts up and calls the method twice; one that takes this long hangs.
RESIDENT_SECONDS, RESIDENT_CALLS = 120.0, 20.0


def run_cell(cell: Cell, study: str, desk: Desk = _NO_DESK) -> Record:
    """Measure one cell, or train, and return its record.

    Order: inputs (outside all clocks), one call of the method, accuracy, certified arithmetic, numerics,
    assumptions, switches, time, tensor bytes, resident peak. A plugin's failure is never raised: it becomes
    the record's status and reason, and what was measured before it stays. The same cell gives the same bits.
    The caller's thread count and random state are untouched.
    """
    record: Record = {
        "schema": SCHEMA,
        "id": cell.id,
        "study": study,
        "cell": cell.description,
        "status": "ok",
        "reason": None,
        "environment": environment(),
        "started": timestamp(),
        "pass_seconds": {},
    }
    with measure.stopwatch(record, "seconds"):
        try:
            with inputs.conditions(cell.description):
                results = None if desk.folder is None else desk.folder.parent
                _measure(start.located(cell.description, results), record, desk)
        except Exception as error:  # noqa: BLE001  a plugin may raise anything, and one cell kills no sweep
            record["status"], record["reason"] = classify(error)
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):  # of a context that the cell has broken
            torch.cuda.empty_cache()  # the device is shared with other workers
    return record


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record; ``cores_usable``: how many cores the cell may use."""
    return {
        "metabench": version("metabench"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": len(cores.available()) or None,
        "data": None,
    }


@lru_cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def gpu(device: torch.device) -> dict[str, Any]:
    """A CUDA device for the record: its name and driver, and torch's cuDNN."""
    name = torch.cuda.get_device_name(device)
    return {"gpu": name, "gpu_driver": _driver(), "cudnn": torch.backends.cudnn.version()}


@lru_cache
def _driver() -> str | None:
    """The version of NVIDIA's kernel module; None where the kernel does not say."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, re.MULTILINE)
    return found and found.group(1)


def _measure(description: dict[str, Any], record: Record, desk: Desk) -> None:
    """Fill the record pass by pass; whatever raises leaves in it what was finished."""
    seconds = record["pass_seconds"]
    with measure.stopwatch(seconds, "inputs"):
        cell = inputs.prepare(description)
        record["environment"] |= {"data": cell.problem.fingerprint(), **cell.versions()}
        if start.KEY in description:
            record["environment"]["start"] = description[start.KEY]["sha256"]
    if cell.device.type == "cuda":
        record["environment"] |= gpu(cell.device)
    if TRAIN in description["passes"]:
        with measure.stopwatch(seconds, TRAIN):
            record[TRAIN] = course.train(record["id"], description, cell, desk)
        if cell.engine is not None:
            record["engine"] = cell.engine.report()
        return
    with measure.stopwatch(seconds, "method"):
        bilevel = cell.bilevel()
        estimate = accuracy.check(cell.run(bilevel), bilevel)
    record["calls"] = bilevel.calls.as_dict()
    if cell.engine is not None:
        record["engine"] = cell.engine.report()
    record["status"], record["reason"] = accuracy.verdict(estimate)
    if "accuracy" in description["passes"]:
        with measure.stopwatch(seconds, "accuracy"):
            exact = inputs.exact(inputs.exact_key(description))
            record["accuracy"] = accuracy.assess(estimate, exact, references(description))
    if "certified" in description["passes"]:
        with measure.stopwatch(seconds, "certified"):
            record["certified"] = _certified(cell, description, bilevel, estimate)
    if "numerics" in description["passes"]:
        with measure.stopwatch(seconds, "numerics"):
            record["numerics"] = numerics.observe(cell)
    if "assumptions" in description["passes"]:
        with measure.stopwatch(seconds, "assumptions"), inputs.threads(1):  # its bits do not depend on them
            exact = inputs.exact(inputs.exact_key(description))
            record["assumptions"] = assumptions.observe(
                cell, exact, estimate, description.get("path_points", PATH_POINTS)
            )
    if "switches" in description["passes"]:
        with measure.stopwatch(seconds, "switches"), inputs.threads(1):
            record["switches"] = switches.observe(cell, inputs.exact(inputs.exact_key(description)))
    n_params = bilevel.meta.numel()
    del bilevel, estimate  # nothing of this call weighs on the passes below
    if "time" in description["passes"]:
        with measure.stopwatch(seconds, "time"):
            record["time"] = _time(cell, description)
    if "tensor_bytes" in description["passes"]:
        with measure.stopwatch(seconds, "tensor_bytes"):
            record["tensor_bytes"] = {"n_params": n_params} | _tensor_bytes(cell)
    if "resident" in description["passes"]:
        with measure.stopwatch(seconds, "resident"):
            limit = RESIDENT_SECONDS + RESIDENT_CALLS * seconds["method"]
            record["resident"] = measure.resident_growth(description, cell.modules(), limit)


def _certified(
    cell: inputs.Prepared, description: dict[str, Any], bilevel: Bilevel, estimate: Estimate
) -> dict[str, Any]:
    from bench.certified import certify  # torch's decompositions take a second to import

    exact = inputs.exact(inputs.exact_key(description))
    return certify(cell.method, bilevel, estimate.meta_grad, exact, references(description))


def _tensor_bytes(cell: inputs.Prepared) -> dict[str, Any]:
    if cell.engine is not None and cell.device.type != "cuda":
        return {"missing": "compiled kernels hold their tensors out of the meter's sight"}
    if not cell.method.in_torch:
        return {"missing": f"'{registry.name_of(cell.method)}' does its work outside torch"}
    return measure.tensor_bytes(cell.run, cell.device)


def _time(cell: inputs.Prepared, description: dict[str, Any]) -> dict[str, Any]:
    """Interleaved with first-order MAML on the same inputs, with the same inner solver where there is one.

    The reference runs in eager mode, and on as many tasks at once as by default, whatever the cell asks for:
    so ratios compare across these settings.
    """
    table = {"name": REFERENCE_METHOD}
    if "inner" in description["method"]:
        table["inner"] = description["method"]["inner"]
    method = registry.build("method", table)
    at_once = usual(cell.problem, method, len(cell.tasks))
    reference = replace(cell, method=method, engine=None, at_once=at_once)
    times = measure.time_interleaved(cell.run, reference.run, description["repeats"], cell.device)
    return {**times, "reference": registry.describe(method)}


def references(description: dict[str, Any]) -> dict[str, Reference]:
    """Both true meta-gradients of a cell; why there is none is part of the answer."""
    key = inputs.exact_key(description)
    inner = description["method"].get("inner")
    with inputs.threads(1):  # so that they do not depend on the cell that asks first
        return {"maml": _maml(key, json.dumps(inner, sort_keys=True)), "implicit": _implicit(key)}


@lru_cache(maxsize=32)  # neighbouring cells share them, over all their numbers of steps
def _maml(key: str, inner: str) -> Reference:
    table = json.loads(inner)
    bilevel = inputs.exact(key)
    if table is None:
        return absent(bilevel, "none", "the method has no inner solver to differentiate through")
    return _or_reason(bilevel, lambda: maml_reference(bilevel, registry.build("inner", table)))


@lru_cache(maxsize=4)
def _implicit(key: str) -> Reference:
    bilevel = inputs.exact(key)
    return _or_reason(bilevel, lambda: implicit_reference(bilevel))


def _or_reason(bilevel: Bilevel, compute: Callable[[], Reference]) -> Reference:
    try:
        return compute()
    except Exception as error:  # noqa: BLE001  no reference is no failure of the method
        return absent(bilevel, "none", f"the reference failed: {type(error).__name__}: {error}")
