"""Merging: what several stores hold of a study becomes one store. Sources stay as they are."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from bench.disk import failed
from bench.record.compaction import PART_RECORDS
from bench.record.form import MEASURED, Record, UnreadableError, parse, text_of
from bench.record.parquet import Row, as_tables, write_part
from bench.record.repeated import COMPARED, add_repeated, differences, repeated_names
from bench.record.store import Store


@dataclass
class Merged:
    """What became of the records of a source.

    ``new`` cells, the ``same`` records, ``repeated`` ones of cells that had another. ``differ`` lists those
    of the repeated whose deterministic results are not the same: cell, and the keys in which they differ.
    """

    new: int = 0
    same: int = 0
    repeated: int = 0
    differ: list[tuple[str, list[str]]] = field(default_factory=list)


def merge(source: Store, target: Store) -> Merged:
    """Bring all records of ``source`` into ``target``; may be killed and called again.

    Of two records of a cell the better one counts (ok, then measured; that of ``target`` where they are as
    good), and the other goes to the repeated records of ``target``. Raises `StoreError`.
    """
    merged, there = Merged(), target.ids()
    both = there.keys() & source.ids().keys()
    fresh = ((text, record) for text, record in source.texts() if record["id"] not in there)
    while write_part(target.folder, as_tables(_rows(fresh, merged))) is not None:
        pass
    known = {r["id"]: (_hash(r), _hash(_compared(r))) for r in target.each(both.__contains__)}
    try:
        for text, record in source.texts(known.__contains__):
            whole, results = known[record["id"]]
            if _hash(record) == whole:
                merged.same += 1
                continue
            first = _add(target, text, record, there[record["id"]])
            merged.repeated += 1
            if _hash(_compared(record)) != results:
                merged.differ.append((record["id"], differences(first, record)))
        _add_repeated(source, target)
    except OSError as error:
        raise failed("write", target.folder, error) from error
    return merged


def _rows(fresh: Iterator[tuple[bytes, Record]], merged: Merged) -> Iterator[Row]:
    for text, record in islice(fresh, PART_RECORDS):
        merged.new += 1
        yield Row(record["id"], record["status"], time.time_ns(), text)


def _add(target: Store, text: bytes, record: Record, status: str) -> Record:
    """Store another record of a cell whose record in ``target`` has this ``status``; returns that one."""
    cell_id = record["id"]
    first = target.read(cell_id) or {}
    if _rank(record["status"]) > _rank(status):
        if first:
            add_repeated(target.folder, cell_id, text_of(first))
        target.put(cell_id, text, replace=True)
    else:
        add_repeated(target.folder, cell_id, text)
    return first


def _add_repeated(source: Store, target: Store) -> None:
    for name in repeated_names(source.folder):
        cell_id, content = name.partition(".")[0], (source.folder / "repeated" / name).read_bytes()
        try:
            record = parse(content, cell_id)
        except UnreadableError:  # `metabench verify` tells of it
            continue
        if record != target.read(cell_id):
            add_repeated(target.folder, cell_id, content)


def _rank(status: str) -> int:
    return 2 * (status == "ok") + (status in MEASURED) - (status == "killed")


def _compared(record: Record) -> Record:
    return {key: record.get(key) for key in COMPARED}


def _hash(record: Record) -> bytes:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
