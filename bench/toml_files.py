"""Files that users write in TOML: found by name or path, and read so that every error names file and line."""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import UsageError, unknown
from bench.toml_lines import Way, line_of

T = TypeVar("T")


class Fault(Exception):
    """Something wrong at ``way``; `read` knows the file and makes it an error with a line."""

    def __init__(self, message: str, way: Way):
        super().__init__(message)
        self.way = way


def impossible(got: object, allowed: str, way: Way) -> Fault:
    """The fault of a value that its key cannot have."""
    key = next(step for step in reversed(way) if isinstance(step, str))
    return Fault(f"{key} = {got!r} is not possible; allowed: {allowed}", way)


def located(path: Path, text: str, message: str, way: Way) -> UsageError:
    """The error for the value at ``way`` in a file with this text."""
    line = line_of(text, way)
    where = f"{path}:{line}" if line else str(path)
    return UsageError(f"{where}: {message}", tuple(step for step in way if isinstance(step, str)))


def find(kind: str, given: str | Path, known: Mapping[str, Path]) -> Path:
    """The file of a shipped study or profile (``kind``), or the user's own at a path."""
    if str(given) in known:
        return known[str(given)]
    path = Path(given)
    if path.is_file():
        return path
    if path.suffix == ".toml":
        raise UsageError(f"there is no {kind} file {path}")
    error = unknown(kind, str(given), known)
    raise UsageError(f"{error}. A {kind} of your own is given as the path of its .toml file")


def read(kind: str, path: Path, make: Callable[[str, dict[str, Any]], T]) -> T:
    """What ``make`` makes of the file's text and tables; its `Fault` becomes a `UsageError`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a {kind}: {error}") from error
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # bad syntax, or a number or nesting without end
        line = re.search(r"at line (\d+)", str(error))
        where = f"{path}:{line[1] if line else len(text.splitlines())}"
        raise UsageError(f"{where}: this is not valid TOML: {error}") from error
    try:
        return make(text, raw)
    except Fault as fault:
        raise located(path, text, str(fault), fault.way) from None
