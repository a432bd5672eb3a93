"""Compaction: loose records become parts, small parts become larger ones.

Nothing is removed before the part that holds it is on the disk under its name, and readers look at loose
files before they look at parts: killed anywhere, and with any number of writers, readers and other
compactions at work, every record is found. One that is found twice in between counts once.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from bench.disk import failed, stamp_of
from bench.record.form import UnreadableError, parse
from bench.record.loose import JSON, Loose, Text, take
from bench.record.parquet import MERGED, Row, as_tables, tables, write_part
from bench.record.parts import Part, Parts, newest
from bench.record.repeated import add_repeated, keep_repeated

PART_RECORDS = 20_000  # a part of this size is left alone; so many are compacted at once
RATIO = 4  # a part is merged into smaller ones that are together at least this fraction of it


class _TakenAwayError(Exception):
    """Another compaction has merged a part while it was read."""


@dataclass
class _Batch:
    """What becomes one part: the cells, and the files that can go once it is on the disk."""

    names: list[str]
    settled: list[tuple[Path, bytes]] = field(default_factory=list)  # with the digests of their texts
    beaten: list[tuple[Path, str]] = field(
        default_factory=list
    )  # leftovers that are not their cells' records


def compact(folder: Path, loose: Loose, parts: Parts) -> None:
    """Move all loose records of a study into parts, and merge small parts. Raises `StoreError`."""
    names = loose.names()
    while names:
        end = PART_RECORDS
        while end < len(names) and _cell(names[end]) == _cell(names[end - 1]):
            end += 1
        _compact(folder, loose, parts, _Batch(names[:end]))
        names = names[end:]
    # Another compaction may be quicker; of damage whoever reads the records is told.
    with suppress(_TakenAwayError, UnreadableError):
        _merge(folder, mergeable([part for part in parts.all() if part.whole]))


def mergeable(parts: list[Part]) -> list[Part]:
    """The small parts that are to become one, so that their number stays a logarithm of their records."""
    chosen: list[Part] = []
    total = 0
    for part in sorted(parts, key=len):
        if len(part) >= PART_RECORDS or (chosen and len(part) > RATIO * total):
            break
        chosen.append(part)
        total += len(part)
    return chosen if len(chosen) > 1 else []


def _compact(folder: Path, loose: Loose, parts: Parts, batch: _Batch) -> None:
    write_part(folder, as_tables(_rows(loose, parts, batch)))
    for path, digest in batch.settled:
        try:
            taken = path if path.suffix != f".{JSON}" else take(path, digest)
        except OSError as error:
            raise failed("remove", path, error) from error
        if taken is not None:
            _remove(taken)
    for path, cell_id in batch.beaten:
        try:
            keep_repeated(folder, path, cell_id)
        except FileNotFoundError:  # another compaction did
            pass
        except OSError as error:
            raise failed("move", path, error) from error


def _rows(loose: Loose, parts: Parts, batch: _Batch) -> Iterator[Row]:
    known = parts.index()
    for cell_id, names in groupby(batch.names, key=_cell):
        found: list[tuple[str, Text, dict]] = []
        for name in names:
            if (read := loose.read(name, parse)) is not None:
                found.append((name, *read))
        if not found:
            continue
        part, row = known.get(cell_id, (None, 0))
        latest = part.written[row] if part else 0
        # The file in its place counts, else what was written last, be it in a part.
        found.sort(key=lambda one: (one[0].endswith(f".{JSON}"), one[1].written))
        name, text, record = found[-1]
        counts = name.endswith(f".{JSON}") or text.written > latest
        if counts:
            batch.settled.append((loose.at(name), text.digest()))
            # Later than all that it replaces, whatever clocks have said: a death may leave that behind.
            before = max([latest, *(other.written for _, other, _ in found[:-1])])
            yield Row(cell_id, record["status"], max(text.written, before + 1), text.content)
        for name, other, record in found[:-1] if counts else found:
            content = text.content if counts else parts.text(cell_id)
            if record["status"] == "ok" and other.content != content:
                batch.beaten.append((loose.at(name), cell_id))
            else:
                batch.settled.append((loose.at(name), other.digest()))


def _merge(folder: Path, chosen: list[Part]) -> None:
    """Make one part of several, with the last version of every record."""
    if not chosen:
        return
    last = newest(chosen)

    def content() -> Iterator[pa.Table]:
        for part in chosen:
            start = 0
            for table in _read(part):
                counts = []
                for row in range(start, start + len(table)):
                    winner = last[part.ids[row]]
                    counts.append(winner == (part, row))
                    if not counts[-1] and _has_raced(part, row, *winner):
                        add_repeated(
                            folder, part.ids[row], table.column("json")[row - start].as_py().encode()
                        )
                start += len(table)
                yield table.filter(pa.array(counts, pa.bool_()))

    merged = write_part(folder, content())
    for part in chosen:
        if part.path != merged and stamp_of(part.path) == part.stamp:
            _remove(part.path)


def _read(part: Part) -> Iterator[pa.Table]:
    """As `tables`; a part that is gone is no error of the one that is being written."""
    try:
        yield from tables(part.path)
    except FileNotFoundError as error:
        raise _TakenAwayError from error


def _has_raced(part: Part, row: int, winner: Part, at: int) -> bool:
    """Whether a record was merged in at the same time as the one that counts: neither knew of the other."""
    written, later = part.written[row], winner.written[at]
    if written >= MERGED:
        return False
    # A process that died as it wrote a failed record has not looked whether an ok one came.
    return written != later if later < MERGED else part.statuses[row] == "ok" != winner.statuses[at]


def _remove(path: Path) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # another compaction did
        pass
    except OSError as error:
        raise failed("remove", path, error) from error


def _cell(name: str) -> str:
    return name.partition(".")[0]
