"""Names to plugin classes, and plugins to plain tables and back.

`build` and `describe` are inverses: ``build(kind, describe(plugin)) == plugin``. A table is what a study file
holds: ``{"name": "imaml", "inner": {"name": "gradient_descent", "steps": 10}}``; fields left out get their
defaults. Third parties register through the entry-point group `metabench.plugins`: each entry point names a
module whose import calls `register`.
"""

import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any, Literal, TypeVar, Union

from packaging.requirements import Requirement

from bench.api import (
    Curvature,
    InnerSolver,
    InvalidValueError,
    LinearSolver,
    Method,
    Network,
    OuterOptimizer,
    Plugin,
    Preconditioner,
    Problem,
)
from bench.errors import UsageError, unknown

ENTRY_POINT_GROUP = "metabench.plugins"
KINDS: dict[str, type] = {
    "method": Method,
    "inner": InnerSolver,
    "linear": LinearSolver,
    "preconditioner": Preconditioner,
    "curvature": Curvature,
    "problem": Problem,
    "network": Network,
    "outer": OuterOptimizer,
}

_classes: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
_names: dict[type, tuple[str, str]] = {}
C = TypeVar("C", bound=type)


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: make a frozen dataclass known as ``name`` among the plugins of ``kind``.

    Raises `UsageError` for an unknown kind, a class of another kind, or a name that has an owner.
    """

    def add(cls: C) -> C:
        plugin: Any = cls
        if kind not in KINDS:
            raise unknown("kind of plugin", kind, KINDS)
        where = f"{cls.__module__}.{cls.__qualname__}"
        if not issubclass(plugin, KINDS[kind]):
            raise UsageError(f"{where} is registered as a {kind} but is no bench.api.{KINDS[kind].__name__}")
        parameters = vars(plugin).get("__dataclass_params__")
        if parameters is None or not parameters.frozen:
            raise UsageError(f"{where} must be a dataclass with frozen=True")
        owner = _classes[kind].get(name)
        if owner is not None and f"{owner.__module__}.{owner.__qualname__}" != where:
            raise UsageError(
                f"the {kind} name '{name}' belongs to {owner.__module__}.{owner.__qualname__}; "
                f"{where} must choose another"
            )
        _classes[kind][name] = cls
        _names[cls] = (kind, name)
        return cls

    return add


@cache
def load_plugins() -> dict[str, str]:
    """Import every plugin module once. Returns what failed (entry point -> reason); it kills nothing."""
    broken = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  a third party's import may raise anything
            owner = point.dist.name if point.dist else "unknown distribution"
            broken[f"{point.name} ({owner}: {point.value})"] = f"{type(error).__name__}: {error}"
    return broken


def names(kind: str) -> list[str]:
    """The names registered for ``kind``."""
    load_plugins()
    return sorted(_classes[kind])


def get(kind: str, name: str, keys: tuple[str, ...] = ()) -> type:
    """The class registered as ``name``; `UsageError` with the nearest name if there is none."""
    load_plugins()
    if name not in _classes[kind]:
        raise unknown(kind, name, _classes[kind], keys)
    return _classes[kind][name]


def name_of(plugin: object) -> str:
    """The registered name of a plugin."""
    return _names[type(plugin)][1]


def kind_of(cls: object) -> str | None:
    """Which kind of part a field of type ``cls`` holds, None for a plain value."""
    for kind, base in KINDS.items():
        if isinstance(cls, type) and issubclass(cls, base):
            return kind
    return None


def parts(plugin: object) -> Iterator[Plugin]:
    """The plugin and, recursively, the plugins among its fields."""
    if isinstance(plugin, Plugin):
        yield plugin
        for key in field_types(type(plugin)):
            yield from parts(getattr(plugin, key))


def is_stochastic(plugin: Plugin) -> bool:
    """Whether the plugin or one of its parts draws random numbers."""
    return any(part.stochastic for part in parts(plugin))


def unavailable(plugin: Plugin | type[Plugin]) -> str | None:
    """Why a plugin cannot run on this machine, with the command that mends it; None where it can."""
    command = plugin.install or "pip install " + " ".join(f"'{needed}'" for needed in plugin.needs)
    for needed in map(Requirement, plugin.needs):
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            return f"{needed.name} is not installed; {command}"
        if not needed.specifier.contains(found, prereleases=True):
            return f"{needed.name} {found} is installed; {command}"
    return plugin.lacks()


@cache  # resolving names takes long, and a study asks for every value that it crosses
def field_types(cls: type) -> dict[str, tuple[Field, Any]]:
    """Field name -> (dataclass field, resolved type)."""
    hints = typing.get_type_hints(cls)
    return {f.name: (f, hints[f.name]) for f in fields(cls) if f.init}


def default_of(field: Field) -> Any:
    """A field's default; `MISSING` where it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def build(kind: str, table: dict[str, Any] | str, keys: tuple[str, ...] = ()) -> Any:
    """The plugin that a table (or a bare name) describes.

    Raises `UsageError` naming the key, what was got and what is allowed; ``keys`` is the way to this table.
    """
    if isinstance(table, str):
        table = {"name": table}
    if not isinstance(table, dict):
        raise UsageError(f"a {kind} is a name or a table with a name; got {table!r}", keys)
    name = table.get("name")
    if not isinstance(name, str):
        known = ", ".join(names(kind))
        raise UsageError(f'this {kind} has no name; write name = "...", one of: {known}', keys)
    cls = get(kind, name, (*keys, "name"))
    known = field_types(cls)
    values = {}
    for key, value in table.items():
        if key == "name":
            continue
        if key not in known:
            raise unknown(f"field of {kind} '{name}'", key, known, (*keys, key))
        values[key] = _convert(known[key][1], value, f"{kind} '{name}': {key}", (*keys, key))
    missing = [k for k, (f, _) in known.items() if k not in values and default_of(f) is MISSING]
    if missing:
        raise UsageError(f"{kind} '{name}' needs a value for: {', '.join(missing)}", keys)
    try:
        return cls(**values)
    except InvalidValueError as error:
        raise UsageError(f"{kind} '{name}': {error}", (*keys, str(error).split(" ")[0])) from error
    except (TypeError, ValueError) as error:  # a third party's own checks
        raise UsageError(f"{kind} '{name}' refuses these values: {error}", keys) from error


def describe(plugin: object) -> dict[str, Any]:
    """The full table of a plugin, defaults filled in but for its `later` fields; JSON types only."""
    table: dict[str, Any] = {"name": name_of(plugin)}
    for key, (of, hint) in field_types(type(plugin)).items():
        value = getattr(plugin, key)
        if key in getattr(plugin, "later", ()) and value == default_of(of):
            continue
        table[key] = describe(value) if kind_of(type(value)) else _plain(hint, value)
    return table


def _plain(hint: Any, value: Any) -> Any:
    # An int in a float's place becomes a float, so that equal plugins have equal descriptions.
    if isinstance(value, tuple):
        (of, *_) = typing.get_args(hint) or (Any,)
        return [_plain(of, v) for v in value]
    is_float = hint is float or float in typing.get_args(hint)
    return float(value) if is_float and type(value) is int else value


def _convert(hint: Any, value: Any, what: str, keys: tuple[str, ...]) -> Any:
    kind = kind_of(hint)
    if kind is not None:
        return build(kind, value, keys)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [a for a in arguments if a is not type(None)]
        return _convert(hint, value, what, keys)
    if origin is Literal:
        if value not in arguments:
            raise unknown(f"value of {what}:", str(value), map(str, arguments), keys)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UsageError(f"{what} is a list, got {value!r}", keys)
        return tuple(_convert(arguments[0], v, what, keys) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UsageError(f"{what} is too large for a float: {str(value)[:20]}...", keys) from None
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise UsageError(f"{what} is of type {hint.__name__}, got {value!r} ({type(value).__name__})", keys)
    return value
