"""`metabench list`: the catalogue of plugins and studies."""

import types
import typing
from dataclasses import MISSING
from typing import Any, Literal

from bench import registry, spec
from bench.cli.label import short
from bench.cli.text import columns, say, say_hung, say_json, warn
from bench.errors import UsageError, unknown

TITLES = {
    "method": "Methods",
    "inner": "Inner solvers",
    "linear": "Linear solvers",
    "preconditioner": "Preconditioners",
    "curvature": "Curvatures",
    "outer": "Outer optimizers",
    "problem": "Problems",
    "network": "Networks",
    "study": "Studies",
}
PLURALS = {f"{kind}s": kind for kind in TITLES} | {"studies": "study"}


def show_catalogue(kind: str | None, json: bool) -> None:
    """Print the catalogue, or one ``kind`` of it; broken plugins come last with their reason."""
    kind = PLURALS.get(kind, kind) if kind else None
    if kind is not None and kind not in TITLES:
        raise unknown("kind", kind, TITLES)
    broken = registry.load_plugins()
    found = {k: _studies() if k == "study" else _plugins(k) for k in TITLES if kind in (None, k)}
    if json:
        say_json(found | {"broken": broken})
        return
    for k, entries in found.items():
        say(f"{TITLES[k]} ({len(entries)})", style="bold")
        width = max(map(len, entries), default=0)
        for name, entry in entries.items():
            chance = " [draws random numbers]" if entry.get("stochastic") else ""
            say_hung(f"  {name.ljust(width)}  {entry['summary']}{chance}".rstrip(), width + 4)
            if entry.get("unavailable"):
                say_hung(f"      unavailable: {entry['unavailable']}", 8, style="yellow")
            for line in columns(map(_field_row, entry["fields"].items()), indent=6):
                say_hung(line, 10, style="dim")
        say()
    for name, reason in broken.items():
        warn(f"plugin {name} is broken: {reason}")


def _plugins(kind: str) -> dict[str, dict[str, Any]]:
    entries = {}
    for name in registry.names(kind):
        cls = registry.get(kind, name)
        fields = {}
        for key, (field, hint) in registry.field_types(cls).items():
            default = registry.default_of(field)
            fields[key] = {
                "type": _type(hint),
                "allowed": _allowed(hint),
                "required": default is MISSING,
                "default": None if default is MISSING else _plain(default),
            }
        entries[name] = {
            "summary": _summary(cls),
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "unavailable": registry.unavailable(cls),
            "stochastic": cls.stochastic,
            "fields": fields,
        }
    return entries


def _studies() -> dict[str, dict[str, Any]]:
    entries = {}
    for name, path in sorted(spec.shipped().items()):
        try:
            summary = spec.load(name).question
        except UsageError as error:
            summary = f"cannot be read: {error}"
        entries[name] = {"summary": summary, "path": str(path), "fields": {}}
    return entries


def _summary(cls: type) -> str:
    doc = (cls.__doc__ or "").strip()
    # A dataclass without a docstring gets its signature as one.
    return "" if doc.startswith(f"{cls.__name__}(") else doc.partition("\n")[0].replace("`", "")


def _plain(value: Any) -> Any:
    if registry.kind_of(type(value)) is not None:
        return registry.describe(value)
    return list(value) if isinstance(value, tuple) else value


def _type(hint: Any) -> str:
    kind = registry.kind_of(hint)
    if kind is not None:
        return kind
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if a is type(None) else _type(a) for a in arguments)
    if origin is Literal:
        return "choice"
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _allowed(hint: Any) -> list[Any] | None:
    """The choices of a field: literals, or the names of the plugins that fit; None where any value may do."""
    kind = registry.kind_of(hint)
    if kind is not None:
        return [name for name in registry.names(kind) if issubclass(registry.get(kind, name), hint)]
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((found for a in typing.get_args(hint) if (found := _allowed(a)) is not None), None)
    return None


def _field_row(item: tuple[str, dict[str, Any]]) -> tuple[str, str, str]:
    name, field = item
    default = "required" if field["required"] else f"= {short(field['default'])}"
    return name, default, _alternatives(field)


def _alternatives(field: dict[str, Any]) -> str:
    """The choices, or the type; "any linear solver" where all of a kind may stand: the list has them."""
    if not field["allowed"]:
        return field["type"]
    kind, _, rest = field["type"].partition(" or ")
    if len(field["allowed"]) > 1 and kind in TITLES and set(field["allowed"]) == set(registry.names(kind)):
        return " or ".join(filter(None, (f"any {TITLES[kind].lower().removesuffix('s')}", rest)))
    return " | ".join(map(str, field["allowed"]))
