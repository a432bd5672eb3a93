"""The certified part of a record as columns, per task.

``certified.rounding`` of the computed result (the upper bound; ``certified.rounding_low`` is the lower one),
``certified.radius bits nodes turned seconds trace_seconds``; for each reference R ``certified.K.R`` and
``certified.K_low.R``, K = ``rounding``, ``truncation``, ``total`` and ``float64_error``, all relative to R,
and ``certified.proven.R``, 1 where R itself is certified. ``missing.certified`` says why a task has none.
"""

from typing import Any

_PLAIN = ("radius", "bits", "nodes", "seconds", "trace_seconds")


def rows(certified: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict of columns for each task."""
    return [{"task": number} | _columns(task) for number, task in enumerate(certified.get("tasks") or [])]


def _columns(task: dict[str, Any]) -> dict[str, Any]:
    if "missing" in task:
        return {"missing.certified": task["missing"]}
    found = {f"certified.{key}": task[key] for key in _PLAIN if key in task}
    found["certified.turned"] = len(task.get("turned") or [])
    found |= _bounds("rounding", task)
    for name, entry in (task.get("references") or {}).items():
        if "missing" in entry:
            continue
        found[f"certified.proven.{name}"] = float(entry["certified"])
        for key in ("rounding", "truncation", "total", "float64_error"):
            found |= _bounds(key, entry, f".{name}")
    return found


def _bounds(key: str, entry: dict[str, Any], suffix: str = "") -> dict[str, float | None]:
    bounds = entry.get(key)
    if not bounds:
        return {}
    return {
        f"certified.{key}{suffix}": bounds["upper"],
        f"certified.{key}_low{suffix}": bounds["lower"],
    }
