"""Merging: what several stores hold of a study becomes one store. Sources stay as they are."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from bench.disk import failed
from bench.record import trained
from bench.record.compaction import PART_RECORDS
from bench.record.form import MEASURED, Record, parse, text_of
from bench.record.parquet import Row, as_tables, merged_row, write_part
from bench.record.repeated import add_repeated, differences, readable, results
from bench.record.store import Store


@dataclass
class Merged:
    """What became of the records of a source.

    ``new`` cells, the ``same`` records, ``repeated`` ones of cells that had another. ``differ`` lists those
    of the repeated whose deterministic results are not the same: cell, and the keys in which they differ.
    ``trained`` files came too; of the cells ``untrained`` the record names one that neither store has sound.
    """

    new: int = 0
    same: int = 0
    repeated: int = 0
    differ: list[tuple[str, list[str]]] = field(default_factory=list)
    trained: int = 0
    untrained: list[str] = field(default_factory=list)


def merge(source: Store, target: Store) -> Merged:
    """Bring all records of ``source`` into ``target``; may be killed and called again.

    Of two records of a cell the better one counts (ok, then measured; that of ``target`` where they are as
    good), and the other goes to the repeated records of ``target``. Raises `StoreError`.
    """
    merged, there = Merged(), target.ids()
    both = there.keys() & source.ids().keys()
    trainings: dict[str, Record] = {}
    new = _noting(((text, record) for text, record in source.texts() if record["id"] not in there), trainings)
    fresh: dict[str, int] = {}
    while write_part(target.folder, as_tables(_rows(new, fresh))) is not None:
        pass
    # Others have written or merged meanwhile, and did not see what was brought in just now.
    raced = _raced(target, fresh)
    merged.new = len(fresh) - len(raced)
    known = {r["id"]: (_hash(r), _hash(results(r))) for r in target.each((both | raced).__contains__)}
    beaten: dict[str, list[Record]] = {}
    for cell_id, text in target.parts.merged(raced):
        record = parse(text, cell_id)
        if cell_id in known and _hash(record) != known[cell_id][0]:
            beaten.setdefault(cell_id, []).append(record)
    try:
        for text, record in _noting(source.texts(known.__contains__), trainings):
            cell_id = record["id"]
            whole, known_results = known[cell_id]
            others = [record] if _hash(record) != whole else beaten.get(cell_id, [])
            merged.same += not others
            merged.repeated += bool(others)
            for other in others:
                first = target.read(cell_id) or {}
                target.put(cell_id, text if other is record else text_of(other), weigh=True)
                if _hash(results(other)) != known_results:
                    merged.differ.append((cell_id, differences(first, other)))
        _add_repeated(source, target)
        statuses = target.ids()
        at_work = [i for i in trained.checkpoints(source.folder) if statuses.get(i) not in MEASURED]
        merged.trained = trained.bring(source.folder, target.folder, at_work)
        merged.untrained = [
            cell_id for cell_id, record in trainings.items() if trained.missing(target.folder, record)
        ]
    except OSError as error:
        raise failed("write", target.folder, error) from error
    return merged


def _noting(
    texts: Iterator[tuple[bytes, Record]], trainings: dict[str, Record]
) -> Iterator[tuple[bytes, Record]]:
    """The same, and into ``trainings`` goes of each record that names a file of meta-parameters its name."""
    for text, record in texts:
        if (record.get("train") or {}).get("file"):
            trainings[record["id"]] = {"train": {"file": record["train"]["file"]}}
        yield text, record


def _rows(new: Iterator[tuple[bytes, Record]], fresh: dict[str, int]) -> Iterator[Row]:
    for text, record in islice(new, PART_RECORDS):
        row = merged_row(record["id"], record["status"], text)
        fresh[row.cell_id] = row.written
        yield row


def _raced(target: Store, fresh: dict[str, int]) -> set[str]:
    """Which of the ``fresh`` cells have another record than the one that was brought in."""
    found = {name.partition(".")[0] for name in target.loose.names()} & fresh.keys()
    for part in target.parts.all():
        found.update(i for i, w in zip(part.ids, part.written, strict=True) if fresh.get(i, w) != w)
    return found


def _add_repeated(source: Store, target: Store) -> None:
    for text, record in readable(source.folder):
        if record != target.read(record["id"]):
            add_repeated(target.folder, record["id"], text)


def _hash(record: Record) -> bytes:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
