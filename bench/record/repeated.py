"""Records of cells that have one already: kept beside it, so that nothing runs twice unreported.

repeated/<id>.<32 hex digits of the SHA-256 of the text>.json
repeated/taken/<id>.<hex>.taken                                 as among loose records
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.disk import beside, names, sync_folder, write_new
from bench.record.form import Record, UnreadableError, parse
from bench.record.loose import JSON, TAKEN, read_text, taken_names

_COMPARED = ("status", "calls", "accuracy")
_TRAINED = ("curve", "evaluations", "file")


def results(record: Record) -> Record:
    """What the same cell gives again, unlike times and memory."""
    training = record.get("train") or {}
    found = {name: record.get(name) for name in _COMPARED}
    return found | {"train": {name: training.get(name) for name in _TRAINED}}


def differences(one: Record, other: Record) -> list[str]:
    """Which of the deterministic results of two records of a cell differ, as dotted keys."""
    first, second = results(one), results(other)
    return [key for name in first for key in _differences(name, first[name], second[name])]


def add_repeated(folder: Path, cell_id: str, content: bytes) -> Path:
    """Put a record's text among the repeated ones of a study, the same text once. Raises `OSError`."""
    with beside(_place(folder, cell_id, content)) as new:
        write_new(new, content)
        return keep_repeated(folder, new, cell_id)


def keep_repeated(folder: Path, file: Path, cell_id: str) -> Path:
    """As `add_repeated`, for a file in the folder of the study, which is moved."""
    target = _place(folder, cell_id, file.read_bytes())
    target.parent.mkdir(exist_ok=True)
    os.replace(file, target)
    sync_folder(target.parent)
    return target


def repeated_files(folder: Path) -> list[Path]:
    """The files of repeated records in the folder of a study, by cell."""
    own = folder / "repeated"
    found = [own / name for name in names(own) if name.endswith(f".{JSON}")]
    found += [own / TAKEN / name for name in taken_names(own)]
    return sorted(found, key=lambda path: path.name)


def readable(folder: Path) -> Iterator[tuple[bytes, Record]]:
    """The repeated records of a study that can be read, each with its text; `verify` tells of the others."""
    for path in repeated_files(folder):
        try:
            text = read_text(path)
            if text is not None:
                yield text.content, parse(text.content, path.name.partition(".")[0])
        except UnreadableError:
            continue


def _place(folder: Path, cell_id: str, content: bytes) -> Path:
    return folder / "repeated" / f"{cell_id}.{hashlib.sha256(content).hexdigest()[:32]}.json"


def _differences(key: str, one: Any, other: Any) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted(one.keys() | other.keys())
        return [way for k in keys for way in _differences(f"{key}.{k}", one.get(k), other.get(k))]
    return [] if one == other else [key]
