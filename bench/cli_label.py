"""One cell in one line: its problem, its method, and what tells it from its neighbours."""

from collections.abc import Iterable
from typing import Any


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested description as one level with dotted keys."""
    out = {}
    for key, value in table.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def varying(descriptions: Iterable[dict[str, Any]]) -> set[str]:
    """The dotted keys in which cells differ."""
    seen: dict[str, set[str]] = {}
    for description in descriptions:
        for key, value in flat(description).items():
            seen.setdefault(key, set()).add(repr(value))
    return {key for key, values in seen.items() if len(values) > 1}


def label(description: dict[str, Any], keys: set[str]) -> str:
    """The plugins of a cell by name, and those of its settings that are in ``keys``."""
    parts, rest = [], []
    for part, value in description.items():
        if isinstance(value, dict):
            settings = [f"{k}={v}" for k, v in flat(value).items() if k != "name" and f"{part}.{k}" in keys]
            parts.append(f"{value['name']}({', '.join(settings)})" if settings else value["name"])
        elif part in keys:
            rest.append(f"{part}={value}")
    return " ".join(parts + rest)
