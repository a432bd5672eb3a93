"""The folder of one submission: the frozen plan, its packs, their jobs, logs and claims.

<results>/<study>/jobs/<submission>/plan.parquet       what is to run: cells, and the pack of each
                                    packs.json         pack number -> cells, resource class, minutes
                                    submission.json    the terms, and the job of every pack
                                    logs/              submitit's
                                    claims/            see `slurm.claims`
                                    ended/             see `slurm.ends`

Slurm calls the jobs <study>-<submission>, so that they are found by what exists before they do.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.cells import Cell
from bench.disk import StoreError, failed, write_whole
from bench.record import Record, timestamp
from slurm.pack import Needs, Pack

ROWS = 10_000  # of the plan that are read together


@dataclass(frozen=True)
class Terms:
    """What all jobs of a submission go by. ``time_limit`` is of a cell, in seconds, ``minutes`` of a job."""

    study: str
    profile: str
    minutes: float
    grace_seconds: float
    requeue: bool
    time_limit: float
    time: str = ""
    source: str = ""  # of the profile: what --profile says to mean it


@dataclass(frozen=True)
class Planned:
    """A cell of the plan. ``before`` is when the record began that it had at submission; "" if none.

    ``name`` tells it from the study's other cells in logs.
    """

    cell: Cell
    before: str = ""
    name: str = ""

    def is_missing(self, record: Record | None) -> bool:
        """Whether it is still to do, given its record now."""
        if record is None or record["status"] == "killed":
            return True
        return bool(self.before) and record.get("started") == self.before


@dataclass(frozen=True)
class Submission:
    """The files of a submission, in ``folder``."""

    folder: Path

    @property
    def job_name(self) -> str:
        return f"{self.folder.parent.parent.name}-{self.folder.name}"

    @property
    def plan(self) -> Path:
        return self.folder / "plan.parquet"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def claims(self) -> Path:
        return self.folder / "claims"

    def write(self, terms: Terms, planned: Iterable[Planned], packs: list[Pack]) -> None:
        """Freeze a plan; ``planned`` holds the cells of all ``packs``."""
        of = {one.cell.id: one for one in planned}
        rows = [(of[cell_id], one.number) for one in packs for cell_id in one.ids]
        columns = {
            "id": [p.cell.id for p, _ in rows],
            "cell": list(_texts(p.cell.description for p, _ in rows)),
            "pack": [number for _, number in rows],
            "before": [p.before for p, _ in rows],
            "name": [p.name for p, _ in rows],
        }
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink, compression="zstd", row_group_size=ROWS)
        write_whole(self.plan, sink.getvalue().to_pybytes())
        listed = {
            one.number: {
                "cells": list(one.ids),
                "needs": asdict(one.needs),
                "workers": one.workers,
                "seconds": round(one.seconds, 1),
                "minutes": round(one.minutes, 2),
            }
            for one in packs
        }
        self._write("packs.json", listed)
        self._write("submission.json", asdict(terms) | {"jobs": {}, "sending": []})
        self.logs.mkdir(exist_ok=True)

    def terms(self) -> Terms:
        known = self._read("submission.json")
        with _reading(self.folder / "submission.json"):
            return Terms(**{key: value for key, value in known.items() if key not in ("jobs", "sending")})

    def packs(self) -> dict[int, Pack]:
        """All packs by number."""
        known = self._read("packs.json")
        with _reading(self.folder / "packs.json"):
            return {
                int(number): Pack(
                    int(number), Needs(**one["needs"]), one["workers"], one["seconds"], tuple(one["cells"])
                )
                for number, one in known.items()
            }

    def cells(self, pack: int) -> list[Planned]:
        """The cells of a pack, in order."""
        with _reading(self.plan):
            rows = pq.read_table(self.plan, filters=[("pack", "=", pack)], use_threads=False).to_pylist()
            return [
                Planned(Cell(row["id"], json.loads(row["cell"])), row["before"], row.get("name", ""))
                for row in rows
            ]

    def before(self) -> dict[str, str]:
        """Of all cells that had a record at submission: when that began."""
        with _reading(self.plan):
            rows = pq.read_table(self.plan, columns=["id", "before"], use_threads=False).to_pylist()
        return {row["id"]: row["before"] for row in rows if row["before"]}

    def jobs(self) -> dict[int, str]:
        """The job of every pack that has been submitted."""
        known = self._read("submission.json")
        with _reading(self.folder / "submission.json"):
            return {int(pack): str(job) for pack, job in known["jobs"].items()}

    def announce(self, packs: list[int]) -> None:
        """Note the packs of the array that is sent next, in order: the ids of its jobs are not known yet."""
        self._write("submission.json", self._read("submission.json") | {"sending": packs})

    def add_jobs(self, jobs: dict[int, str]) -> None:
        """Note the jobs of some packs, which are sent."""
        known = self._read("submission.json")
        named = known["jobs"] | {str(pack): job for pack, job in jobs.items()}
        self._write("submission.json", known | {"jobs": named, "sending": []})

    def packs_of(self, jobs: Iterable[str]) -> dict[str, int]:
        """The packs of jobs, also of those of the array that was being sent when `submit` died."""
        found = {job: pack for pack, job in self.jobs().items()}
        sending = dict(enumerate(self._read("submission.json").get("sending", ())))
        for job in jobs:
            element = int(job.partition("_")[2] or 0)
            if job not in found and element in sending:
                found[job] = sending[element]
        return found

    def log(self, job: str) -> Path:
        """Where a job writes what it does; submitit's name for it."""
        return self.logs / f"{job}_0_log.out"

    def task(self, job: str) -> Path:
        """What submitit gives a job to do once sbatch has taken it; without it, the job fails in a minute."""
        return self.logs / f"{job}_submitted.pkl"

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        with _reading(path):
            return json.loads(path.read_text(encoding="utf-8"))

    def _write(self, name: str, content: dict[Any, Any]) -> None:
        write_whole(self.folder / name, json.dumps(content).encode())


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """`StoreError` where the file cannot be read, or holds something else."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.strerror is not None:
            raise failed("read", path, error) from error
        gone = isinstance(error, FileNotFoundError)  # pyarrow's own, which says no more than the name
        why = "there is no such file" if gone else f"it is damaged ({type(error).__name__}: {error})"
        raise StoreError(
            f"cannot read {path}: {why}. Finished records are safe; once no job of {path.parent} lives, "
            "delete that folder and submit again"
        ) from error


def _texts(descriptions: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Descriptions as JSON. Cells share the tables of their plugins: each is made text once."""
    known: dict[int, tuple[Any, str]] = {}  # by identity; the table is kept, so that its id stays its own
    for description in descriptions:
        parts = []
        for key, value in description.items():
            if id(value) not in known:
                known[id(value)] = value, json.dumps(value)
            parts.append(f"{json.dumps(key)}: {known[id(value)][1]}")
        yield "{" + ", ".join(parts) + "}"


def new(study_folder: Path) -> Submission:
    """A submission with a name of its own: the time, to the second, and a few random letters."""
    stamp = timestamp()[:19].replace(":", "").replace("-", "")
    return Submission(study_folder / "jobs" / f"{stamp}-{uuid.uuid4().hex[:8]}")


def submissions(study_folder: Path) -> list[Submission]:
    """All submissions of a study, the oldest first."""
    folders = (path.parent for path in (study_folder / "jobs").glob("*/submission.json"))
    return [Submission(folder) for folder in sorted(folders)]
