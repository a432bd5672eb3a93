"""One cell in one line: its problem, its method, and what tells it from its neighbours."""

from collections import Counter
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
    """The settings in which cells differ; those of a plugin, if they differ among the cells that have it."""
    seen: dict[str, set[str]] = {}
    owners, held = Counter(), Counter()  # plugins, and the fields that they say
    descriptions = list(descriptions)
    parts = Counter(part for description in descriptions for part in description)
    looked_at: dict[tuple[str, int], Any] = {}  # cells share their tables, so that each is looked at once
    for description in descriptions:
        for part, value in description.items():
            if (part, id(value)) not in looked_at:
                looked_at[part, id(value)] = value  # kept, so that no other one gets its id
                settings = _settings(part, value)
                owners.update(f"{k}={v}" for k, v in settings.items() if k.endswith("name"))
                for key, setting in settings.items():
                    seen.setdefault(key, set()).add(repr(setting))
                    plugin = key.removesuffix(".name").rpartition(".")[0]
                    held[key, f"{plugin}.name={settings.get(f'{plugin}.name')}"] += 1
    some = {part for part in parts if parts[part] < len(descriptions)}  # left out where they are as usual
    unsaid = {key for (key, owner), n in held.items() if n < owners[owner]}  # a later field at its default
    return {key for key, values in seen.items() if len(values) > 1 or key in some or key in unsaid}


def label(description: dict[str, Any], keys: set[str]) -> str:
    """The plugins of a cell by name, and those of its settings that are in ``keys``."""
    parts, rest = [], []
    for part, value in description.items():
        if _is_plugin(value):
            own = f"{part}:{value['name']}."
            chosen = [f"{k}={v}" for k, v in flat(value).items() if own + k in keys]
            parts.append(f"{value['name']}({', '.join(chosen)})" if chosen else value["name"])
        elif part in keys:
            text = " of ".join(reversed(value.values())) if isinstance(value, dict) else value
            rest.append(f"{part}={text}")
    return " ".join(parts + rest)


def _is_plugin(value: Any) -> bool:
    return isinstance(value, dict) and "name" in value


def _settings(part: str, value: Any) -> dict[str, Any]:
    if _is_plugin(value):
        return {f"{part}:{value['name']}.{key}": setting for key, setting in flat(value).items()}
    return {part: value}


def short(value: Any) -> str:
    """A description in one line, as in name(field=value)."""
    if isinstance(value, dict):
        inside = ", ".join(f"{k}={short(v)}" for k, v in value.items() if k != "name")
        return f"{value['name']}({inside})" if inside else value["name"]
    return "none" if value is None else str(value)
