"""The gate: measure the cells of a study by what does not depend on the clock, and compare with a baseline.

Metrics of a cell, besides its status:

    calls.*               oracle calls of every kind                     equal
    operators, flops      see `bench.operations`                         equal, under one release of torch
    peak_bytes            peak tensor bytes                              equal, under one release of torch
    kernel.*, calls_of.*  of a compiled cell, instead of the two above:  equal, under one release of torch
                          operators in the graph of every kernel, and
                          its calls; `operators` are those between
    error.maml, .implicit largest relative error over tasks, to the      within a factor, see `same_error`
                          exact gradient through the steps taken and
                          to the one at the inner minimiser

A gate that lets a gain pass would let the loss of it pass later, so that both sides count: what got better
fails until the baseline is updated. Time, where it is asked for, is the ratio to first-order MAML in
interleaved pairs, and judged only if that method against itself gives 1, not merely in the middle of noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import quantile_test

from bench import inputs
from bench.baseline import Baseline, Entry, Ratio, Value
from bench.cells import Cell
from bench.failures import classify
from bench.operations import operations
from bench.record import MEASURED, Record
from bench.run import run_cell

Verdict = Literal["regressed", "improved", "missing", "surplus", "not judged"]
FAILING: tuple[Verdict, ...] = ("regressed", "improved", "missing", "surplus")

# What torch decides too: another release may run other operators for the same program.
OF_TORCH = ("operators", "flops", "peak_bytes")

# Processors add in different orders. An error far above the unit roundoff eps of the cell's dtype is the
# method's own, and moves by some eps only; one near eps is made of rounding alone, and moves by factors. (On
# the shipped study, AVX-512 kernels against SSE4's: by 1.00001 from 1000 eps on, by up to 2.9 below.)
OWN_ERROR, OWN_FACTOR = 1000, 1.1  # from 1000 eps on
ROUNDED_FACTOR, LEAST_ERROR = 4.0, 16  # below; and what is below 16 eps counts as 16 eps

TIME_FACTOR = 1.3  # the interval must lie wholly beyond the baseline's interval widened by this
CONTROL_FACTOR = 1.05  # the reference against itself must not lie wholly beyond this, nor reach TIME_FACTOR


@dataclass(frozen=True)
class Measured:
    """The entry of a cell, why its status is not ok, and why there is no time of it to judge."""

    entry: Entry
    reason: str | None = None
    untimed: str | None = None


@dataclass(frozen=True)
class Difference:
    """One metric of one cell that is not as the baseline has it."""

    cell: str
    metric: str
    baseline: Value | str | Ratio
    now: Value | str | Ratio
    verdict: Verdict
    note: str = ""

    @property
    def factor(self) -> float | None:
        """now / baseline, where both are numbers (of times, their medians)."""
        before, now = (x.median if isinstance(x, Ratio) else x for x in (self.baseline, self.now))
        if isinstance(before, int | float) and isinstance(now, int | float) and before:
            return now / before
        return None


def measure(cell: Cell, study: str, time: bool) -> Measured:
    """Run a cell in this process, with the passes that the gate needs instead of its own."""
    passes = ["accuracy", "tensor_bytes", *(["time"] if time else [])]
    description: dict[str, Any] = {**cell.description, "passes": passes}
    record = run_cell(Cell(cell.id, description), study)
    counted: dict[str, Value] = dict.fromkeys(("operators", "flops"))
    if record["status"] in MEASURED:
        try:
            with inputs.conditions(description):
                prepared = inputs.prepare(description)
                if prepared.engine is not None:
                    counted |= _between_kernels(prepared)
                elif prepared.method.in_torch:
                    counted |= operations(prepared.run)
        except Exception as error:  # noqa: BLE001  a plugin may raise anything, here too
            record["status"], record["reason"] = classify(error)
    ratio, untimed = _time(record) if time else (None, None)
    entry = Entry(
        status=record["status"], dtype=description["dtype"], metrics=_metrics(record) | counted, time=ratio
    )
    reason = record["reason"]["message"].partition("\n")[0] if record["reason"] else None
    return Measured(entry, reason, untimed)


def _between_kernels(cell: inputs.Prepared) -> dict[str, Value]:
    """Calls of every kernel, and the operators that run beside them, which are as slow as in eager mode."""
    assert cell.engine is not None
    with cell.engine.taped() as tape:
        cell.run()
    calls: dict[str, Value] = {f"calls_of.{name}": len(taken) for name, taken in tape.items()}
    return calls | {"operators": operations(cell.run)["operators"]}


def _metrics(record: Record) -> dict[str, Value]:
    metrics: dict[str, Value] = {f"calls.{name}": n for name, n in (record.get("calls") or {}).items()}
    metrics["peak_bytes"] = record.get("tensor_bytes", {}).get("peak")
    kernels = record.get("engine") or {}
    metrics |= {f"kernel.{name}": kernel.get("operations") for name, kernel in kernels.items()}
    references = record.get("accuracy", {}).get("references", {})
    for name in ("maml", "implicit"):
        errors = [e for e in references.get(name, {}).get("relative_error", ()) if e is not None]
        metrics[f"error.{name}"] = max(errors, default=None)
    return metrics


def _time(record: Record) -> tuple[Ratio | None, str | None]:
    """The time's ratio to the reference's; None and the reason where it must not be judged."""
    times = record.get("time")
    if times is None:
        return None, f"{record['status']}, so that it was not timed"
    ratio, reason = _ratio(times["samples_s"], times["reference_s"]), restless(times)
    if ratio is None:
        reason = f"{len(times['samples_s'])} rounds are too few for an interval (`repeats` in the study)"
    return (None, reason) if reason else (ratio, None)


def restless(times: dict[str, Any]) -> str | None:
    """Why the times of a record say little, by the reference's against itself; None if they say something."""
    control = _ratio(times["control_s"], times["reference_s"])
    if control is None:
        return None
    biased = control.low > CONTROL_FACTOR or control.high < 1 / CONTROL_FACTOR
    if not biased and control.high <= TIME_FACTOR and control.low >= 1 / TIME_FACTOR:
        return None
    against = f"{control.median:.3g} of its own time ({control.low:.3g} to {control.high:.3g})"
    return f"the machine is too restless: the reference took {against}"


def _ratio(samples: list[float], reference: list[float]) -> Ratio | None:
    pairs = np.divide(samples, reference)
    low, high = quantile_test(pairs, p=0.5).confidence_interval(0.95)  # by order statistics: any distribution
    if not np.isfinite([low, high]).all():
        return None
    return Ratio(median=float(np.median(pairs)), low=float(low), high=float(high), rounds=len(pairs))


def compare(baseline: Baseline, now: Baseline, measured: dict[str, Measured], time: bool) -> list[Difference]:
    """What differs, by cell; ``now`` is the baseline that ``measured`` (by cell id) would make."""
    before, after = baseline.by_id(), now.by_id()
    alike = baseline.environment.counts_alike(now.environment)
    found = []
    for cell_id, (name, entry) in after.items():
        if cell_id not in before:
            found.append(Difference(name, "cell", None, entry.status, "missing", "not in the baseline"))
            continue
        old = before[cell_id][1]
        found += _differences(name, old, measured[cell_id], alike)
        if time and entry.status in MEASURED:
            found += _slower(name, old, measured[cell_id])
    for cell_id, (name, entry) in before.items():
        if cell_id not in after:
            found.append(Difference(name, "cell", entry.status, None, "surplus", "no cell of the study"))
    return found


def _differences(name: str, old: Entry, measured: Measured, alike: bool) -> Iterable[Difference]:
    new = measured.entry
    if new.status != old.status:
        verdict = "improved" if new.status == "ok" else "regressed"
        yield Difference(name, "status", old.status, new.status, verdict, measured.reason or "")
    eps = 2.0**-10 if new.dtype == "tf32" else torch.finfo(getattr(torch, new.dtype)).eps
    for metric in sorted(old.metrics.keys() | new.metrics.keys()):
        of_kernel = metric.startswith(("kernel.", "calls_of."))
        # A kernel that one side lacks costs nothing there; one that fell back to eager mode is null.
        before, now = (x.metrics.get(metric, 0 if of_kernel else None) for x in (old, new))
        if before is None or now is None:
            # What a cell that failed no longer has is told by its status.
            if before is not now and new.status == old.status:
                yield Difference(name, metric, before, now, "regressed" if now is None else "improved")
            continue
        same = same_error(before, now, eps) if metric.startswith("error.") else before == now
        of_torch = metric in OF_TORCH or of_kernel
        if not same and of_torch and not alike:
            yield Difference(name, metric, before, now, "not judged", "another torch or machine")
        elif not same:
            yield Difference(name, metric, before, now, "regressed" if now > before else "improved")


def same_error(before: float, now: float, eps: float) -> bool:
    """Whether two errors of a method agree, up to what another processor's rounding may do to them."""
    factor = OWN_FACTOR if before >= OWN_ERROR * eps else ROUNDED_FACTOR
    small, large = sorted(max(error, LEAST_ERROR * eps) for error in (before, now))
    return large <= factor * small


def _slower(name: str, old: Entry, measured: Measured) -> Iterable[Difference]:
    new = measured.entry.time
    if new is None or old.time is None:
        note = measured.untimed or "the baseline has no time of it; --time --update measures it"
        yield Difference(name, "time", old.time, new, "not judged", note)
    elif new.low > TIME_FACTOR * old.time.high:
        yield Difference(name, "time", old.time, new, "regressed")
    elif new.high < old.time.low / TIME_FACTOR:
        yield Difference(name, "time", old.time, new, "improved")


def accepted(baseline: Baseline | None, now: Baseline, differences: Iterable[Difference]) -> Baseline:
    """The new baseline: entries that differ as they are now, all others untouched.

    So an update on another processor does not rewrite every rounding error. A time that is not measured now
    stays only while nothing else of its cell differs.
    """
    before = baseline.by_id() if baseline else {}
    metrics: dict[str, set[str]] = {}
    for difference in differences:
        metrics.setdefault(difference.cell, set()).add(difference.metric)
    cells = {}
    for cell_id, (name, entry) in now.by_id().items():
        old = before[cell_id][1] if cell_id in before else None
        if old is not None and name not in metrics:
            entry = old
        elif old is not None and metrics[name] == {"time"}:
            entry = old.model_copy(update={"time": entry.time or old.time})
        cells[name] = entry
    return now.model_copy(update={"cells": cells})
