"""Compiled kernels as lines."""

from collections.abc import Iterable
from typing import Any

from bench.cli.text import columns, duration, number
from bench.compiled.kernel import Kernel


def built_lines(kernels: Iterable[Kernel], dtype: str) -> list[str]:
    """One line a kernel: what it computes, its size, what made it, whether it was built or found and how long
    that took, and how exact it is; or why eager mode stands in."""
    rows = []
    for one in kernels:
        if one.reason is not None:
            rows.append((one.what, "", "in eager mode", one.reason))
            continue
        tasks = "a task at a time" if one.parts else f"{one.size[0]} task{'s' * (one.size[0] != 1)}"
        size = f"{tasks} x {one.size[1]:,} parameters, {dtype}"
        by = "by torch" if one.lowering == "torch" else one.lowering
        how = f"{by}, {'found on disk' if one.cached else 'built'} in {duration(one.seconds)}"
        rows.append((one.what, size, how, _errors(one.error, one.eager_error)))
    return columns(rows)


def _errors(error: float | None, eager: float | None) -> str:
    return f"{number(error, 2)} from float64 (eager {number(eager, 2)})"


def kernel_lines(kernels: dict[str, dict[str, Any]]) -> list[str]:
    """One line a kernel: what made it, how long it took and how exact it is, or why eager mode stands in."""
    rows = []
    for name, kernel in kernels.items():
        if "eager" in kernel:
            rows.append((name, f"in eager mode: {kernel['eager']}"))
            continue
        how = "by torch" if kernel["lowering"] == "torch" else kernel["lowering"]
        errors = _errors(kernel["error"], kernel["eager_error"])
        rows.append(
            (name, f"{how}, {duration(kernel['seconds'])}, {kernel['operations']} operations, {errors}")
        )
    return columns(rows)
