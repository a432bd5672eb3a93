"""Parts: many records in one Parquet file that never changes, several of them in the folder of a study.

    records.<16 hex digits of the SHA-256 of the file>.parquet     columns `COLUMNS`
    records.parquet                                                one of before, without the column written

Rows of one cell in several parts are versions of its record; the one that was written last counts. So parts
may overlap in any way, and a union of parts says the same as any part made of them.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from errno import ESTALE
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.disk import Stamp, beside, failed, names, stamp_of, sync_folder
from bench.record.form import UnreadableError

COLUMNS = pa.schema([("id", pa.string()), ("status", pa.string()), ("written", pa.int64()), ("json", pa.string())])
GROUP_RECORDS, GROUP_BYTES = 500, 16 * 2**20  # a row group is what is held in memory at once
_NAME = re.compile(r"records(?:\.([0-9a-f]{16}))?\.parquet")
_FIRST = "records.parquet"


class Row(NamedTuple):
    """A record to be put into a part; ``written`` in nanoseconds since 1970."""

    cell_id: str
    status: str
    written: int
    text: bytes


@dataclass(frozen=True, eq=False)
class Part:
    """The columns of a part but the records themselves; ``starts`` has the first row of every row group."""

    path: Path
    stamp: Stamp
    columns: pa.Table
    starts: list[int]

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def ids(self) -> list[str]:
        return self.columns.column("id").to_pylist()

    @cached_property
    def statuses(self) -> list[str]:
        return self.columns.column("status").to_pylist()

    @cached_property
    def written(self) -> list[int]:
        return self.columns.column("written").to_pylist()


def part_paths(folder: Path) -> list[Path]:
    """The parts in the folder of a study."""
    return [folder / name for name in names(folder) if is_part(name)]


def is_part(name: str) -> bool:
    """Whether a file of that name in a study's folder is a part."""
    return _NAME.fullmatch(name) is not None


def intact(path: Path) -> bool:
    """Whether a part's content is that of which its name holds the hash."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return match[1] is None or match[1] == _hash(path)


def tables(path: Path, columns: Iterable[str] = COLUMNS.names, groups: Iterable[int] | None = None) -> Iterator[pa.Table]:
    """The row groups of a part, their checksums verified.

    Raises `FileNotFoundError` if it is gone, `UnreadableError` if it is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            have = file.schema_arrow.names
            for name in ("id", "status", "json"):
                if name not in have:
                    raise UnreadableError(f"is not a readable Parquet file of records (no column {name})")
            for group in range(file.num_row_groups) if groups is None else groups:
                read = file.read_row_group(group, columns=[c for c in columns if c in have], use_threads=False)
                if "written" in columns and "written" not in have:
                    read = read.append_column("written", pa.array([0] * len(read), pa.int64()))
                yield read.select(list(columns)).cast(pa.schema([COLUMNS.field(c) for c in columns]))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number == ESTALE:  # removed on another machine
            raise FileNotFoundError(path) from error
        if isinstance(error, OSError) and number is not None:
            raise failed("read", path, error) from error
        raise UnreadableError(f"is not a readable Parquet file of records ({error})") from error


def row_groups(path: Path) -> Iterator[pa.Table | UnreadableError]:
    """Every row group of a part that may be damaged, or why it cannot be read."""
    try:
        groups = pq.read_metadata(path).num_row_groups
    except (pa.ArrowException, OSError, ValueError) as error:
        yield UnreadableError(f"is not a readable Parquet file of records ({error})")
        return
    for group in range(groups):
        try:
            yield from tables(path, groups=[group])
        except UnreadableError as error:
            yield error


def as_tables(rows: Iterable[Row]) -> Iterator[pa.Table]:
    """Rows as tables of the size of a row group."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.text)
        if len(held) == GROUP_RECORDS or size >= GROUP_BYTES:
            yield _table(held)
            held, size = [], 0
    if held:
        yield _table(held)


def write_part(folder: Path, content: Iterable[pa.Table]) -> Path | None:
    """Write tables into a new part, whole and on the disk on return; None if they have no rows.

    Raises `StoreError` where that is not possible, and leaves nothing behind.
    """
    target, rows = folder / _FIRST, 0
    try:
        with beside(target) as temporary:
            with open(temporary, "xb") as file:
                writer = pq.ParquetWriter(
                    file, COLUMNS, compression="zstd", use_dictionary=["status"], write_page_checksum=True
                )
                with writer:
                    for table in _grouped(content):
                        writer.write_table(table, row_group_size=len(table))
                        rows += len(table)
                file.flush()
                os.fsync(file.fileno())
            if not rows:
                return None
            target = folder / f"records.{_hash(temporary)}.parquet"
            os.replace(temporary, target)
    except OSError as error:
        raise failed("write", target, error) from error
    sync_folder(folder)
    return target


class Parts:
    """The union of the parts in a folder; ``damaged`` is told of one that is damaged, and moves it away."""

    def __init__(self, folder: Path, damaged: Callable[[Path, str], None]):
        self.folder = folder
        self._damaged = damaged
        self._known: dict[Path, Part] = {}
        self._unreadable: set[tuple[Path, Stamp]] = set()  # still there after they were to be moved away
        self._winners: dict[str, tuple[Part, int]] | None = None

    def all(self) -> list[Part]:
        """The parts that there are now."""
        found: dict[Path, Part] = {}
        for path in part_paths(self.folder):
            stamp = stamp_of(path)
            if stamp is None or (path, stamp) in self._unreadable:
                continue
            part = self._known.get(path)
            if part is None or part.stamp != stamp:
                part = self._load(path, stamp)
            if part is not None:
                found[path] = part
        if found != self._known:
            self._known, self._winners = found, None
        return list(found.values())

    def index(self) -> dict[str, tuple[Part, int]]:
        """For every cell the part and the row of its record, as things are now."""
        parts = self.all()
        if self._winners is None:
            self._winners = newest(parts)
        return self._winners

    def find(self, cell_id: str) -> tuple[str | None, int]:
        """Status of a cell's record (None if it has none), and when it was written; without an index."""
        found: tuple[str | None, int] = (None, 0)
        for part in self.all():
            row = pc.index(part.columns.column("id"), cell_id).as_py()
            if row >= 0 and (written := part.columns.column("written")[row].as_py()) >= found[1]:
                found = (part.columns.column("status")[row].as_py(), written)
        return found

    def texts(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
        """(id, text) of the record of every cell that is ``wanted``, a row group in memory at a time."""
        done: set[str] = set()
        again = True
        while again:
            again = False
            rows: dict[Part, list[int]] = {}
            for cell_id, (part, row) in self.index().items():
                if cell_id not in done and wanted(cell_id):
                    rows.setdefault(part, []).append(row)
            for part, chosen in rows.items():
                try:
                    for cell_id, text in _texts(part, sorted(chosen)):
                        done.add(cell_id)
                        yield cell_id, text
                except FileNotFoundError:  # merged into another one just now
                    again = True
                except UnreadableError as error:
                    self._tell(part.path, part.stamp, str(error))
                    again = True

    def _load(self, path: Path, stamp: Stamp) -> Part | None:
        columns = [name for name in COLUMNS.names if name != "json"]
        try:
            groups = list(tables(path, columns))
        except FileNotFoundError:
            return None
        except UnreadableError as error:
            self._tell(path, stamp, str(error))
            return None
        starts = list(accumulate(map(len, groups), initial=0))[:-1]
        empty = pa.schema([COLUMNS.field(name) for name in columns]).empty_table()
        return Part(path, stamp, pa.concat_tables([empty, *groups]).combine_chunks(), starts)

    def _tell(self, path: Path, stamp: Stamp, why: str) -> None:
        self._damaged(path, why)
        self._unreadable.add((path, stamp))


def newest(parts: Iterable[Part]) -> dict[str, tuple[Part, int]]:
    """For every cell the part and the row that was written last."""
    found: dict[str, tuple[Part, int]] = {}
    for part in sorted(parts, key=lambda part: part.path):
        for row, cell_id in enumerate(part.ids):
            other = found.get(cell_id)
            if other is None or part.written[row] >= other[0].written[other[1]]:
                found[cell_id] = (part, row)
    return found


def _texts(part: Part, rows: list[int]) -> Iterator[tuple[str, str]]:
    """(id, text) of ascending rows of a part."""
    ends = [*part.starts[1:], len(part)]
    by_group: dict[int, list[int]] = {}
    group = 0
    for row in rows:
        while row >= ends[group]:
            group += 1
        by_group.setdefault(group, []).append(row)
    for (group, chosen), table in zip(by_group.items(), tables(part.path, ["json"], by_group), strict=True):
        texts = table.column("json").take([row - part.starts[group] for row in chosen]).to_pylist()
        yield from zip((part.ids[row] for row in chosen), texts, strict=True)


def _table(rows: list[Row]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)], schema=COLUMNS)


def _grouped(content: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of the size of a row group, so that many small parts do not make many groups."""
    held: list[pa.Table] = []
    for table in content:
        if held and sum(map(len, held)) + len(table) > GROUP_RECORDS:
            yield pa.concat_tables(held)
            held = []
        held.append(table)
        if sum(t.nbytes for t in held) >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
