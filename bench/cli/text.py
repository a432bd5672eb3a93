"""How the command line writes: lines that are never cut or wrapped when piped, JSON, warnings, columns."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from rich.console import Console
from rich.text import Text


@cache
def console(stderr: bool = False) -> Console:
    """The rich console on stdout (or stderr)."""
    return Console(stderr=stderr, highlight=False, emoji=False)


def say(line: str = "", style: str = "") -> None:
    """Print one line to stdout, styled where stdout is a terminal."""
    console().print(Text(line, style=style), soft_wrap=True)


def say_hung(line: str, indent: int, style: str = "") -> None:
    """Print one line; in a terminal that is too narrow for it, wrapped, what follows ``indent`` deep."""
    if console().is_terminal and len(line) > console().width:
        line = textwrap.fill(
            line,
            console().width,
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    say(line, style)


def warn(line: str) -> None:
    """Print a warning to stderr, so that what is piped stays clean."""
    console(stderr=True).print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def say_json(value: Any) -> None:
    """Print ``value`` as JSON, alone, to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def columns(rows: Iterable[Sequence[object]], indent: int = 2) -> list[str]:
    """Rows of cells as aligned lines; columns of numbers to the right, the last column unpadded."""
    table = list(zip(*rows, strict=True))
    padded = []
    for column in table:
        width = max(len(str(cell)) for cell in column)
        right = all(isinstance(cell, int | float) for cell in column)
        padded.append([str(cell).rjust(width) if right else str(cell).ljust(width) for cell in column])
    return [(" " * indent + "  ".join(cells)).rstrip() for cells in zip(*padded, strict=True)]


def counting(count: int, what: str) -> str:
    """So many of what: "1 cell", "2,000 cells"."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant ones; a dash for one that is missing."""
    return "-" if value is None else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """A span of time as people write it: 8.1 s, 2 min 5 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(n_bytes: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024 or unit == "GiB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    raise AssertionError
