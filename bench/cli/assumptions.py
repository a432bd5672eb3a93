"""The lines of `metabench show` on the pass `assumptions`."""

from typing import Any

from bench.cli.text import columns, number

SHOWN_TASKS = 8
SIZES = ("smallest", "largest", "condition", "stationarity", "flips", "curvature")


def assumption_lines(found: dict[str, Any]) -> list[str]:
    """For each assumption the inner steps at which each task violates it; then sizes at the last point."""
    if not found:
        return []
    steps, violated, sizes = found["steps"], found["violated"], found["sizes"]
    shown = min(max(map(len, violated.values()), default=0), SHOWN_TASKS)
    head = ("inner steps", *(f"task {i}" for i in range(shown)))
    rows = [(name, *(_where(row, steps) for row in tasks[:shown])) for name, tasks in violated.items()]
    last = [
        (f"{name} at {steps[-1]}", *(number(row[-1], 4) for row in sizes[name][:shown]))
        for name in SIZES
        if name in sizes
    ]
    return columns([head, *rows, *last])


def _where(row: list[bool | None], steps: list[int]) -> str:
    if all(value is None for value in row):
        return "not known"
    return ", ".join(str(k) for k, value in zip(steps, row, strict=True) if value) or "-"
