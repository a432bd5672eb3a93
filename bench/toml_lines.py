"""Where in a TOML file a value stands: for errors that name the line. tomllib keeps no positions."""

import tomllib
from typing import Any

# The way to a value: keys of tables and positions in lists, outermost first.
Way = tuple[str | int, ...]

# What may follow the first lines of a file to close the lists and inline tables that they leave open.
_CLOSINGS = ("", "]", "]]", "]}", "]}]", "]]}", "]}}", "]}}]")


def line_of(text: str, way: Way) -> int | None:
    """The line (from 1) on which the value at ``way`` stands, or the innermost table around it that exists.

    ``text`` is valid TOML. Its first lines are parsed, one more each time, until the value is there: right
    for every way of writing TOML, where a search for the key would find another table's. A lone value counts
    as a list of one. None where nothing on the way exists.
    """
    whole = tomllib.loads(text)
    while way and not _has(whole, way):
        way = way[:-1]
    lines = text.splitlines()
    for n in range(1, len(lines) + 1 if way else 0):
        head = "\n".join(lines[:n]) + "\n"
        for closing in _CLOSINGS:
            try:
                part = tomllib.loads(head + closing)
            except tomllib.TOMLDecodeError:
                continue
            if _has(part, way):
                return n
            break
    return None


def _has(value: Any, way: Way) -> bool:
    for step in way:
        if isinstance(step, str):
            if not isinstance(value, dict) or step not in value:
                return False
            value = value[step]
        elif isinstance(value, list):
            if step >= len(value):
                return False
            value = value[step]
        elif step > 0:
            return False
    return True
