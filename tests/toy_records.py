"""Small records, and what happens to stores of them, for the tests of the store."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import disk
from bench.cells import cell_id
from bench.record import SCHEMA

CELL = {"problem": {"name": "sinusoid"}, "method": {"name": "fomaml"}, "seed": 0}
ACCURACY = {"adapted": {}, "stats": {}, "converged": [True], "meta_grad_norm": [1.0], "references": {}}


def a_record(cell_id: str = "a" * 16, status: str = "ok", value: float = 1.0) -> dict[str, Any]:
    """A record that the store takes, though its id is not its cell's."""
    return {
        "schema": SCHEMA,
        "id": cell_id,
        "study": "demo",
        "cell": CELL,
        "status": status,
        "reason": None,
        "accuracy": ACCURACY | {"x": [value]},
        "started": "2026-01-01T00:00:00.000Z",
        "seconds": 1.0,
    }


def true_record(seed: int, status: str = "ok", value: float = 1.0) -> dict[str, Any]:
    """A record whose id is its cell's."""
    cell = CELL | {"seed": seed}
    return a_record(cell_id(cell), status, value) | {"cell": cell}


def everything(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def taken_aside(path: Path) -> Path:
    """As after the death of a process that was about to remove the file: returns where it lies then."""
    taken = path.parent / "taken" / f"{path.name.partition('.')[0]}.{'0' * 32}.taken"
    taken.parent.mkdir(exist_ok=True)
    return path.rename(taken)


def fails_with(code: int) -> Callable[..., Any]:
    """A function that raises the error of that number."""

    def fail(*args: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def break_folder(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int = errno.ENOSPC) -> None:
    """From now on no file can be made in a folder or below it."""

    def opened(path: Path, mode: str) -> Any:
        if Path(path).is_relative_to(folder):
            fails_with(code)()
        return open(path, mode)

    monkeypatch.setattr(disk, "open", opened, raising=False)
