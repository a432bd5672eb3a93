"""What training leaves beside its record: files of arrays, without pickle.

    <root>/<study>/trained/<id>.<16 hex digits of the SHA-256 of the file>.npz    of a finished training
    <root>/<study>/trained/<id>.checkpoint.npz                                     of one that goes on

A record names its finished file. Another run of the cell never replaces it: other content has another name.
"""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench import arrays
from bench.arrays import Arrays, DamagedError
from bench.disk import failed, names, write_whole
from bench.errors import UsageError
from bench.record.form import Record
from bench.record.shape import FINISHED

FOLDER = "trained"
NOT_THERE = "is not there"
STAGE = "stage."  # before the name of an array: the meta-parameters at that stage
_FINISHED = re.compile(FINISHED)
_CHECKPOINT = re.compile(r"([\w-]+)\.checkpoint\.npz")


class Finished(NamedTuple):
    """The file of a finished training; ``digest`` stands in its name."""

    path: Path
    cell_id: str
    digest: str


def checkpoint(folder: Path, cell_id: str) -> Path:
    """Where a cell's checkpoint lies in the folder of its study."""
    return folder / FOLDER / f"{cell_id}.checkpoint.npz"


def drop_checkpoint(folder: Path, cell_id: str) -> None:
    """Remove a cell's checkpoint, if there is one. Raises `StoreError`."""
    path = checkpoint(folder, cell_id)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise failed("remove", path, error) from error


def keep(folder: Path, cell_id: str, content: Arrays) -> dict[str, str]:
    """Store what a finished training leaves; returns what its record says of it. Raises `StoreError`."""
    packed = arrays.packed(content)
    sha256 = hashlib.sha256(packed).hexdigest()
    name = f"{cell_id}.{sha256[:16]}.npz"
    write_whole(folder / FOLDER / name, packed)
    return {"name": name, "sha256": sha256}


def file_of(folder: Path, record: Record) -> Path | None:
    """The file that a record names, be it there or not; None where it names none."""
    named = (record.get("train") or {}).get("file")
    return folder / FOLDER / named["name"] if named else None


def stage(path: Path, name: str, sha256: str | None = None) -> np.ndarray:
    """The meta-parameters [P] at a stage of a training. Raises `UsageError` where there are none."""
    found = arrays.read(path, sha256)
    if f"{STAGE}{name}" not in found:
        known = ", ".join(n.removeprefix(STAGE) for n in found if n.startswith(STAGE)) or "none"
        raise UsageError(f"{path} has no stage '{name}'; it has: {known}")
    return found[f"{STAGE}{name}"]


def finished(folder: Path) -> list[Finished]:
    """The files of finished trainings in the folder of a study."""
    found = [_FINISHED.fullmatch(name) for name in names(folder / FOLDER)]
    return [Finished(folder / FOLDER / one[0], one[1], one[2]) for one in found if one]


def checkpoints(folder: Path) -> dict[str, Path]:
    """Cell -> its checkpoint, in the folder of a study."""
    found = [_CHECKPOINT.fullmatch(name) for name in names(folder / FOLDER)]
    return {one[1]: folder / FOLDER / one[0] for one in found if one}


def missing(folder: Path, record: Record) -> str | None:
    """What is wrong with the file that a record names; None if nothing is, or if it names none."""
    path = file_of(folder, record)
    return path and fault(path, record["train"]["file"]["sha256"])


def bring(source: Path, target: Path, at_work: Collection[str]) -> int:
    """Copy what is sound from the folder of one study to another one's; returns how many files.

    Finished trainings that ``target`` has not, and checkpoints of the cells ``at_work`` where it has none.
    Raises `StoreError`.
    """
    wanted = [(one.path, one.digest) for one in finished(source)]
    wanted += [(path, None) for cell_id, path in checkpoints(source).items() if cell_id in at_work]
    brought = 0
    for path, digest in wanted:
        there = target / FOLDER / path.name
        if fault(path, digest) is None and fault(there, digest) is not None:
            write_whole(there, path.read_bytes())
            brought += 1
    return brought


def fault(path: Path, sha256: str | None = None) -> str | None:
    """What is wrong with a file of arrays, whose SHA-256 begins with ``sha256``; None if nothing is.

    Raises `StoreError` where it cannot be read.
    """
    if not path.exists():
        return NOT_THERE
    try:
        arrays.read(path, sha256)
    except DamagedError as error:
        return str(error).removeprefix(f"{path} ")
    return None
