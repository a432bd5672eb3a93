"""Cells: the single measurements that a study asks for, each with a full description and an id made of it.

A description holds everything that decides the outcome, defaults filled in, as JSON types; so an id never
depends on how a study file is written, in which order, or under which name.
"""

import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Union

from bench import registry
from bench.errors import UsageError
from bench.spec import PATH_POINTS, SWEEP_KEYS, TRAIN, Spec, Sweep
from bench.toml_lines import Way

# Part of every description. Raise it when a metric changes its meaning, so that old records are not reused.
CONTRACT = 1

# No part of a description, so that cells from before these settings keep their ids.
_LEFT_OUT = (("engine", "eager"), ("tasks_at_once", None), ("start", None), ("path_points", PATH_POINTS))

# What neighbours in the list of cells share, most important first: draws of tasks and reference gradients.
_SHARED = ("problem", "seed", "start", "n_tasks", "split", "dtype")

# Single values of a description that a study may cross, in the order in which they are.
_SETTINGS = ("seed", "n_tasks", "split", "dtype", "device", "threads")


@dataclass(frozen=True)
class Cell:
    """One measurement; ``id`` stands for ``description`` (cells with the same id are equal)."""

    id: str
    description: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class _Part:
    """A table or value with nothing left to cross; ``origin``: keys inside it -> their place in the file."""

    value: Any
    origin: dict[tuple[str, ...], Way]

    def way(self, keys: tuple[str, ...]) -> Way:
        """The place of the value at ``keys``, from the nearest table around it with a place of its own."""
        n = max(n for n in range(len(keys) + 1) if keys[:n] in self.origin)
        return (*self.origin[keys[:n]], *keys[n:])


@dataclass(frozen=True)
class _Setting:
    """One value of a description; ``text`` is `canonical` of it with its key, empty where it is left out."""

    value: Any
    text: str
    inner: str  # of a method: its inner solver

    @classmethod
    def of(cls, key: str, value: Any) -> "_Setting":
        text = "" if (key, value) in _LEFT_OUT else canonical({key: value})[1:-1]
        return cls(value, text, canonical(value.get("inner")) if key == "method" else "")


def canonical(value: Any) -> str:
    """JSON with sorted keys and exact floats: equal for equal values, on every machine."""
    return json.dumps(_exact(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def cell_id(description: dict[str, Any]) -> str:
    """16 hexadecimal digits that stand for the description."""
    return _hash(canonical(description))


def expand(spec: Spec) -> list[Cell]:
    """All cells of a study, duplicates merged; those that share tasks and references are neighbours.

    Builds every plugin once, so that a wrong name, field or value is found before anything runs. Raises
    `UsageError` with the file and line.
    """
    cells: dict[str, tuple[Cell, tuple[str, ...]]] = {}
    for sweep in spec.sweeps:
        for cell, shared in _sweep_cells(spec, sweep):
            cells.setdefault(cell.id, (cell, shared))
    # Sorted by what they share; among values, the one that the study names first comes first.
    columns = zip(*(shared for _, shared in cells.values()), strict=True)
    ranks = [{value: rank for rank, value in enumerate(dict.fromkeys(column))} for column in columns]
    ordered = sorted(
        cells.values(), key=lambda pair: [rank[value] for rank, value in zip(ranks, pair[1], strict=True)]
    )
    return [cell for cell, _ in ordered]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _exact(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: _exact(v) for key, v in value.items()}
    return [_exact(v) for v in value] if isinstance(value, list | tuple) else value


def _sweep_cells(spec: Spec, sweep: Sweep) -> Iterator[tuple[Cell, tuple[str, ...]]]:
    """The cells of a crossing, each with what it shares with its neighbours, as texts."""
    _plugins(spec, sweep, "inner", {})  # checked even where no method takes it
    given = {"inner": (list(sweep.inner), sweep.where["inner"])} if sweep.inner else {}
    values: dict[str, Sequence[Any]] = {
        "problem": _plugins(spec, sweep, "problem", {}),
        "method": _plugins(spec, sweep, "method", given),
        **{key: getattr(sweep, f"{key}s" if key == "seed" else key) for key in _SETTINGS},
        "passes": (list(sweep.passes),),
        "repeats": (sweep.repeats,),
        "contract": (CONTRACT,),
        "engine": sweep.engine,
        "tasks_at_once": sweep.tasks_at_once,
        "start": sweep.start,
        "path_points": (sweep.path_points,),
    }
    if sweep.kind == TRAIN:
        values |= {
            "outer": _plugins(spec, sweep, "outer", {}),
            "outer_steps": sweep.outer_steps,
            "evaluation_tasks": (sweep.evaluation_tasks,),
            "validations": (sweep.validations,),
            "validation_tasks": (sweep.validation_tasks,),
        }
    # Every value becomes text once, not once a cell: an id is the hash of these texts in the order of keys.
    columns = [[_Setting.of(key, value) for value in column] for key, column in values.items()]
    keys = list(values)
    sorted_keys = sorted(range(len(keys)), key=keys.__getitem__)
    shared_keys = [keys.index(key) for key in _SHARED]
    method = keys.index("method")
    for row in product(*columns):
        description = {key: setting.value for key, setting in zip(keys, row, strict=True) if setting.text}
        text = ",".join(row[k].text for k in sorted_keys if row[k].text)
        shared = (*(row[k].text for k in shared_keys), row[method].inner)
        yield Cell(_hash(f"{{{text}}}"), description), shared


def _plugins(spec: Spec, sweep: Sweep, kind: str, given: dict[str, tuple[Any, Way]]) -> list[dict[str, Any]]:
    """The full descriptions of all plugins of one kind that a sweep crosses."""
    descriptions = []
    for i, table in enumerate(getattr(sweep, kind)):
        for part in _cross(spec, kind, table, (*sweep.where[kind], i), given):
            try:
                plugin = registry.build(kind, part.value)
            except UsageError as error:
                raise spec.error(_explained(error), part.way(error.keys)) from error
            descriptions.append(registry.describe(plugin))
    return descriptions


def _explained(error: UsageError) -> str:
    # TOML reads a top-level key below a [[method]] header as that method's.
    if error.keys and error.keys[-1] in SWEEP_KEYS and str(error).startswith("unknown field"):
        return f"{error}. As a setting of the study, '{error.keys[-1]}' stands above the first [[method]]"
    return str(error)


def _cross(spec: Spec, kind: str, table: Any, way: Way, given: dict[str, tuple[Any, Way]]) -> Iterator[_Part]:
    """All tables that the lists inside ``table`` stand for; the last field varies fastest.

    ``given`` holds values, with their places, for fields that the table does not set itself.
    """
    if not isinstance(table, dict):
        yield _Part(table, {(): way})
        return
    for name in _alternatives(spec, table.get("name"), (*way, "name")):
        hints = {}
        if isinstance(name.value, str):  # else the registry says what is wrong
            try:
                cls = registry.get(kind, name.value)
            except UsageError as error:
                raise spec.error(str(error), name.origin[()]) from error
            hints = {key: _without_none(hint) for key, (_, hint) in registry.field_types(cls).items()}
        values: dict[str, tuple[Any, Way]] = {
            key: (value, (*way, key)) for key, value in table.items() if key != "name"
        }
        for key, placed in given.items():
            if key not in values and registry.kind_of(hints.get(key)) == key:
                values[key] = placed
        columns = [list(_field(spec, hints.get(key), *placed)) for key, placed in values.items()]
        for row in product([name], *columns):
            parts = dict(zip(["name", *values], row, strict=True))
            origin = {
                (key, *keys): place for key, part in parts.items() for keys, place in part.origin.items()
            }
            yield _Part({key: part.value for key, part in parts.items()}, {(): way, **origin})


def _field(spec: Spec, hint: Any, value: Any, way: Way) -> Iterator[_Part]:
    """What one field of a table stands for. Lists are crossed, but are one value for a tuple."""
    if typing.get_origin(hint) is tuple and not (
        isinstance(value, list) and any(isinstance(v, list) for v in value)
    ):
        yield _finite(spec, _Part(value, {(): way}))
        return
    kind = registry.kind_of(hint)
    for part in _alternatives(spec, value, way):
        if kind is not None:
            yield from _cross(spec, kind, part.value, part.origin[()], {})
        else:
            yield _finite(spec, part)


def _alternatives(spec: Spec, value: Any, way: Way) -> Iterator[_Part]:
    if not isinstance(value, list):
        yield _Part(value, {(): way})
        return
    if not value:
        raise spec.error(f"{way[-1]} is an empty list, which leaves no cell; fill it or delete the key", way)
    for i, item in enumerate(value):
        yield _Part(item, {(): (*way, i)})


def _finite(spec: Spec, part: _Part) -> _Part:
    values = part.value if isinstance(part.value, list) else [part.value]
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
        raise spec.error(f"{part.value} is no setting: records hold finite numbers only", part.origin[()])
    return part


def _without_none(hint: Any) -> Any:
    """The type itself of an optional field."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint
