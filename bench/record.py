"""Records and their store: one JSON file per cell, which any number of processes on any machine may write.

    <root>/<study>/records/<id>.json     one cell; replaced as a whole or not at all
    <root>/<study>/records.parquet       many cells in one file, made by `Store.compact`
    <root>/<study>/set_aside/            files that could not be read; nothing is ever deleted unread

A record is what the loose file says, or else the Parquet part. JSON has no infinities: they are null.
"""

import json
import math
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.disk import Stamp, StoreError, discard_litter, failed, files, stamp_of, write_whole
from bench.record_shape import shape_fault

SCHEMA = 1
STATUSES = (
    "ok",
    "not_converged",  # measured; a solver did not meet its own tolerance
    "non_finite",  # ran to the end with an infinite or undefined result
    "error",
    "out_of_memory",
    "timed_out",
    "killed",  # the worker process ended in the middle
    "declined",  # a plugin cannot serve this cell and says why
)
MEASURED = ("ok", "not_converged", "non_finite")  # the statuses whose records hold numbers
Record = dict[str, Any]

_COLUMNS = ("id", "status", "json")


class _UnreadableError(Exception):
    """A file that is no record, and why."""


def timestamp(seconds_ago: float = 0.0) -> str:
    """A moment as records write it: UTC, to the millisecond; such texts sort by time."""
    moment = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unmeasured(
    study: str, cell_id: str, description: dict[str, Any], status: str, reason: dict[str, Any], seconds: float
) -> Record:
    """The record of a cell that ended after ``seconds`` without a measurement.

    ``reason`` holds message, type and traceback (None where there is none).
    """
    return {
        "schema": SCHEMA,
        "id": cell_id,
        "study": study,
        "cell": description,
        "status": status,
        "reason": reason,
        "started": timestamp(seconds_ago=seconds),
        "seconds": seconds,
    }


class Store:
    """The records of one study under ``root``.

    Reading changes nothing, except that a damaged file is moved aside: ``set_aside`` has one line for each.
    Everything raises `StoreError` where the folder cannot be read or written.
    """

    def __init__(self, root: str | Path, study: str):
        self.root = Path(root)
        self.study = study
        self.folder = self.root / study
        self.parquet = self.folder / "records.parquet"
        self.set_aside: list[str] = []
        self._loose = self.folder / "records"
        self._part: tuple[Stamp, dict[str, Record]] | None = None

    def write(self, record: Record, replace: bool = False) -> Path:
        """Store a record in place of any earlier one of its cell. Returns the file.

        Raises `ValueError` if it is no record.
        """
        if fault := _fault(record, record.get("id")):
            raise ValueError(f"this record {fault}")
        path = self._loose / f"{record['id']}.json"
        text = json.dumps(_finite(record), sort_keys=True, indent=1, allow_nan=False) + "\n"
        write_whole(path, text.encode())
        return path

    def read(self, cell_id: str) -> Record | None:
        """The record of a cell; None if there is none, or only a damaged one."""
        loose = self._read_loose(self._loose / f"{cell_id}.json")
        return loose[1] if loose else self._read_part().get(cell_id)

    def ids(self) -> dict[str, str]:
        """The status of every stored cell."""
        return {record["id"]: record["status"] for record in self.records()}

    def records(self) -> list[Record]:
        """All records, in the order of their ids."""
        found = {record["id"]: record for _, _, record in self._read_all_loose()}
        # The Parquet part is read last: what is compacted in the meantime is then seen twice, not never.
        return [record for _, record in sorted((self._read_part() | found).items())]

    def compact(self) -> Path:
        """Move all records into one Parquet file, which is returned.

        Loose files go only when the Parquet file that holds them is on the disk, so that a crash at any
        moment loses nothing. Cells may be written meanwhile; a second compaction should wait.
        """
        while True:
            loose = self._read_all_loose()
            before = stamp_of(self.parquet)
            merged = self._read_part() | {record["id"]: record for _, _, record in loose}
            if not merged:
                raise StoreError(f"there are no records in {self.folder} to compact")
            if not loose:
                return self.parquet
            content = _parquet(merged)
            if stamp_of(self.parquet) == before:
                break
        write_whole(self.parquet, content)
        for path, stamp, _ in loose:
            if stamp_of(path) == stamp:  # else it was written anew since
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise failed("remove", path, error) from error
        return self.parquet

    def discard_litter(self) -> None:
        """Remove temporary files whose writer died long ago."""
        for folder in (self.folder, self._loose):
            discard_litter(folder)

    def _read_all_loose(self) -> list[tuple[Path, Stamp, Record]]:
        found = []
        for path in files(self._loose, ".json"):
            if loose := self._read_loose(path):
                found.append((path, *loose))
        return found

    def _read_loose(self, path: Path) -> tuple[Stamp, Record] | None:
        stamp = stamp_of(path)
        if stamp is None:
            return None
        try:
            return stamp, _parse(path.read_bytes(), path.stem)
        except FileNotFoundError:  # compacted or set aside by another process just now
            return None
        except OSError as error:
            raise failed("read", path, error) from error
        except _UnreadableError as error:
            self._put_aside(path, f"{error}; its cell will be run again")
            return None

    def _read_part(self) -> dict[str, Record]:
        stamp = stamp_of(self.parquet)
        if stamp is None:
            return {}
        if self._part is None or self._part[0] != stamp:
            try:
                content = self.parquet.read_bytes()
            except FileNotFoundError:  # set aside by another process just now
                return {}
            except OSError as error:
                raise failed("read", self.parquet, error) from error
            try:
                self._part = stamp, _from_parquet(content)
            except _UnreadableError as error:
                self._put_aside(self.parquet, f"{error}; the cells in it will be run again")
                return {}
        return self._part[1]

    def _put_aside(self, path: Path, why: str) -> None:
        target = self.folder / "set_aside" / f"{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}"
        try:
            target.parent.mkdir(exist_ok=True)
            os.replace(path, target)
            line = f"{path} {why}; moved to {target}"
        except FileNotFoundError:  # another process was first
            return
        except OSError as error:
            line = f"{path} {why}; it stays where it is ({error.strerror})"
        if line not in self.set_aside:
            self.set_aside.append(line)


def studies(root: str | Path) -> list[str]:
    """The studies that have records under ``root``."""
    folders = {
        path.parent.name for name in ("records", "records.parquet") for path in Path(root).glob(f"*/{name}")
    }
    return sorted(folders)


def find(root: str | Path, prefix: str) -> list[tuple[str, Record]]:
    """(study, record) of all cells under ``root`` whose id begins with ``prefix``."""
    return [
        (study, record)
        for study in studies(root)
        for record in Store(root, study).records()
        if record["id"].startswith(prefix)
    ]


def _finite(value: Any) -> Any:
    """JSON has no infinities and no NaN: they become null. Text that is no Unicode becomes text that is."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _fault(record: Any, cell_id: Any) -> str | None:
    if not isinstance(record, dict):
        return "is no JSON object"
    if record.get("schema") != SCHEMA:
        return f"has schema {record.get('schema')}, and this version of metabench reads schema {SCHEMA}"
    if not isinstance(cell_id, str) or record.get("id") != cell_id:
        return f"says that it is of cell {record.get('id')}"
    if record.get("status") not in STATUSES:
        return f"has the unknown status {record.get('status')!r}"
    if "cell" not in record:
        return "has no description of its cell"
    return shape_fault(record)


def _parse(text: str | bytes, cell_id: str) -> Record:
    try:
        record = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise _UnreadableError("is empty" if not text else f"is not valid JSON ({error})") from error
    if fault := _fault(record, cell_id):
        raise _UnreadableError(fault)
    return record


def _parquet(records: dict[str, Record]) -> bytes:
    texts = {
        cell_id: json.dumps(_finite(record), sort_keys=True, allow_nan=False)
        for cell_id, record in sorted(records.items())
    }
    columns = [list(texts), [records[cell_id]["status"] for cell_id in texts], list(texts.values())]
    table = pa.table([pa.array(column, pa.string()) for column in columns], names=list(_COLUMNS))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def _from_parquet(content: bytes) -> dict[str, Record]:
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        ids, texts = (table.column(name).to_pylist() for name in ("id", "json"))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _UnreadableError(f"is not a readable Parquet file of records ({error})") from error
    return {cell_id: _parse(text, cell_id) for cell_id, text in zip(ids, texts, strict=True)}
