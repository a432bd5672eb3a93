"""What processes that are no more have left in a folder of results, and nobody will read."""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.disk import LITTER_AGE_S, failed, litter, names
from bench.record import trained
from bench.record.form import MEASURED
from bench.record.loose import TAKEN
from bench.record.repeated import readable
from bench.record.store import Store

# Those that a store makes where it needs them, what lies in another one first.
FOLDERS = tuple(
    map(
        Path,
        [f"records/{TAKEN}", "records", f"repeated/{TAKEN}", "repeated", "set_aside", "jobs", trained.FOLDER],
    )
)
DAY_S = 86400.0


@dataclass(frozen=True)
class Garbage:
    """A file or folder to be removed, its size in bytes, and why."""

    path: Path
    size: int
    why: str


def find_garbage(root: Path, days: float) -> list[Garbage]:
    """All garbage in the studies under ``root``.

    Job folders count once nothing in them was written for ``days``: a job that runs touches its claim. One
    that waits does not, so that the queue is to be asked before they are removed. Of trainings that are
    finished: their checkpoints, and files that no record names.
    """
    found = []
    for study in (root / name for name in names(root)):
        if not study.is_dir():
            continue
        for folder in (study, study / "records", study / "repeated", study / trained.FOLDER):
            found += [Garbage(p, _size(p), "a write that was cut off") for p in litter(folder)]
        found += _of_trainings(Store(root, study.name, moves=False), days)
        for job in names(study / "jobs"):
            age = _age(study / "jobs" / job) / DAY_S
            if age > days:
                path = study / "jobs" / job
                found.append(Garbage(path, _size(path), f"no sign of life for {age:.0f} days"))
        # Of a folder that is young a process may just be going to make use.
        empty: list[Path] = []
        for folder in (*(study / name for name in FOLDERS), study):
            if folder.is_dir() and set(folder.iterdir()) <= set(empty):
                empty.append(folder)
        found += [Garbage(p, 0, "an empty folder") for p in empty if _age(p) > LITTER_AGE_S]
    return found


def _of_trainings(store: Store, days: float) -> Iterator[Garbage]:
    """Of a cell without a finished record, which may lie elsewhere or be yet to come, after ``days``."""
    files, checkpoints = trained.finished(store.folder), trained.checkpoints(store.folder)
    cells = {one.cell_id for one in files} | checkpoints.keys()
    records = {r["id"]: r for r in store.each(cells.__contains__)} if cells else {}
    named = {path for r in records.values() if (path := trained.file_of(store.folder, r))}
    others = (record for _, record in readable(store.folder)) if cells else ()
    named |= {path for r in others if (path := trained.file_of(store.folder, r))}
    for one in files:
        known = records.get(one.cell_id, {}).get("status") in MEASURED
        if one.path not in named and _age(one.path) > (LITTER_AGE_S if known else days * DAY_S):
            yield Garbage(one.path, _size(one.path), "meta-parameters that no record names")
    for cell_id, path in checkpoints.items():
        known = records.get(cell_id, {}).get("status") in MEASURED
        if _age(path) > (LITTER_AGE_S if known else days * DAY_S):
            why = "its cell is finished" if known else f"no sign of life for {_age(path) / DAY_S:.0f} days"
            yield Garbage(path, _size(path), f"a checkpoint: {why}")


def remove(garbage: Garbage) -> bool:
    """Remove it; False if somebody else has, or has put something into the folder."""
    path = garbage.path
    try:
        if path.is_dir() and path.parent.name == "jobs":
            shutil.rmtree(path)
        elif path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    except OSError as error:
        if not path.exists() or (path.is_dir() and any(path.iterdir())):
            return False
        raise failed("remove", path, error) from error
    return True


def _tree(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for below in path.iterdir():
            yield from _tree(below)


def _age(path: Path) -> float:
    """Seconds since anything in a file or folder was written."""
    latest = 0.0
    with suppress(FileNotFoundError):  # somebody is at work in it
        latest = max(below.lstat().st_mtime for below in _tree(path))
    return time.time() - latest if latest else 0.0


def _size(path: Path) -> int:
    size = 0
    with suppress(FileNotFoundError):
        size = sum(below.lstat().st_size for below in _tree(path) if not below.is_dir())
    return size
