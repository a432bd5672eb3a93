"""Compiled kernels as lines."""

from typing import Any

from bench.cli.text import columns, duration, number


def kernel_lines(kernels: dict[str, dict[str, Any]]) -> list[str]:
    """One line a kernel: what made it, how long it took and how exact it is, or why eager mode stands in."""
    rows = []
    for name, kernel in kernels.items():
        if "eager" in kernel:
            rows.append((name, f"in eager mode: {kernel['eager']}"))
            continue
        errors = f"{number(kernel['error'], 2)} from float64 (eager {number(kernel['eager_error'], 2)})"
        how = "by torch" if kernel["lowering"] == "torch" else kernel["lowering"]
        rows.append(
            (name, f"{how}, {duration(kernel['seconds'])}, {kernel['operations']} operations, {errors}")
        )
    return columns(rows)
