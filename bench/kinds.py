"""Kinds: cells that differ in nothing but the seed. Families: kinds on one device that differ in numbers."""

from dataclasses import dataclass, field
from typing import Any

from bench.record import Record

Family = tuple[str, str, str | None, str | None, bool]


@dataclass(eq=False)
class Kind:
    """``description`` is of one of its cells, the texts are `canonical`; the rest is `bench.predict`'s."""

    description: dict[str, Any]
    problem: str
    method: str
    family: Family
    work: float | None = None  # seconds as guessed from oracle calls
    done: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


Families = dict[Family, list[Kind]]


def steps_of(of: dict[str, Any]) -> int:
    """The inner steps of a cell's method; 0 where it has none of a fixed number."""
    steps = _innermost(of["method"]).get("steps")
    return steps if isinstance(steps, int) else 0


def with_steps(of: dict[str, Any], steps: int) -> dict[str, Any]:
    return of | {"method": _with_steps(of["method"], steps)}


def _innermost(table: dict[str, Any]) -> dict[str, Any]:
    """The inner solver of a method, out of its wrappers."""
    inner = table.get("inner") or {}
    return _innermost(inner) if "inner" in inner else inner


def _with_steps(table: dict[str, Any], steps: int) -> dict[str, Any]:
    inner = table["inner"]
    return table | {"inner": _with_steps(inner, steps) if "inner" in inner else inner | {"steps": steps}}


def shape(table: Any) -> str:
    """What of a plugin's table is no number: its names and switches, and those of its parts."""
    if isinstance(table, dict):
        return "(" + ",".join(f"{key}={shape(value)}" for key, value in sorted(table.items())) + ")"
    return str(table) if isinstance(table, str | bool) or table is None else "#"
