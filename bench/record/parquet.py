"""Parts as files: many records in one Parquet file that never changes, in the folder of their study.

records.<16 hex digits of the SHA-256 of the file>.parquet     columns `COLUMNS`
records.parquet                                                one of before, without the column written
"""

import hashlib
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from errno import ELOOP, ESTALE
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from bench.disk import Stamp, beside, failed, names, stamp_of, sync_folder
from bench.record.form import UnreadableError, rank
from bench.record.taking import take_if

COLUMNS = pa.schema(
    [("id", pa.string()), ("status", pa.string()), ("written", pa.int64()), ("json", pa.string())]
)
GROUP_RECORDS, GROUP_BYTES = 500, 16 * 2**20  # a row group is what is held in memory at once
MERGED = 1 << 47  # written before this: merged in, see `merged_row`; nanoseconds of a day and a half
_NAME = re.compile(r"records(?:\.([0-9a-f]{16}))?\.parquet")
_FIRST = "records.parquet"


class Row(NamedTuple):
    """A record to be put into a part; ``written`` in nanoseconds since 1970."""

    cell_id: str
    status: str
    written: int
    text: bytes


def merged_row(cell_id: str, status: str, text: bytes) -> Row:
    """The row of a record that was brought in from elsewhere, and has replaced nothing here.

    It is older than all that is written here; of several the better one counts, then one that is the same
    whichever came first. So nobody who merges at the same time need know of the other.
    """
    order = int.from_bytes(hashlib.sha256(text).digest()[:5])
    return Row(cell_id, status, (rank(status) + 1 << 44) + order, text)


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


def tables(
    path: Path, columns: Iterable[str] = COLUMNS.names, groups: Iterable[int] | None = None
) -> Iterator[pa.Table]:
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
                read = file.read_row_group(
                    group, columns=[c for c in columns if c in have], use_threads=False
                )
                if "written" in columns and "written" not in have:
                    read = read.append_column("written", pa.array([0] * len(read), pa.int64()))
                yield read.select(list(columns)).cast(pa.schema([COLUMNS.field(c) for c in columns]))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        number = getattr(error, "errno", None)
        if number == ESTALE:  # removed on another machine
            raise FileNotFoundError(path) from error
        if isinstance(error, OSError) and number not in (None, ELOOP):
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


def take_part(path: Path, stamp: Stamp) -> Path | None:
    """Take a part from its place if it has this ``stamp``; returns where it lies then, as another part.

    None if it has gone or was replaced; what replaced it stays.
    """
    taken = path.with_name(f"records.{uuid.uuid4().hex[:16]}.parquet")
    return take_if(path, taken, lambda file: file.is_symlink() or stamp_of(file) == stamp)


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
                    file, COLUMNS, compression="zstd", use_dictionary=False, write_page_checksum=True
                )
                with writer:
                    for table in _grouped(content):
                        writer.write_table(table, row_group_size=GROUP_RECORDS)
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


def _table(rows: list[Row]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)], schema=COLUMNS
    )


def _grouped(content: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in fewer tables, so that many small parts do not make many row groups."""
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
