"""Linear solvers with other values of their fields, through the wrappers around them."""

from dataclasses import fields, replace
from typing import Any

from bench.api import LinearSolver


def variant(solver: Any, **values: Any) -> Any:
    """The solver with those of the values whose fields it has, or the solver that it wraps."""
    own = {f.name: getattr(solver, f.name) for f in fields(solver)}
    swap = {key: value for key, value in values.items() if key in own}
    swap |= {key: variant(part, **values) for key, part in own.items() if isinstance(part, LinearSolver)}
    return replace(solver, **swap)


def core(solver: Any) -> Any:
    """The solver itself, out of its wrappers."""
    wrapped = [part for f in fields(solver) if isinstance(part := getattr(solver, f.name), LinearSolver)]
    return core(wrapped[0]) if wrapped else solver
