"""Verification: every record of a store is parsed in full, every checksum taken."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from bench.cells import cell_id
from bench.disk import names, stamp_of
from bench.record import trained
from bench.record.aside import Fate
from bench.record.form import UnreadableError, parse
from bench.record.loose import TAKEN, read_text
from bench.record.parquet import intact, part_paths, row_groups, tables
from bench.record.repeated import repeated_files
from bench.record.store import Store

_TRAINING = b'\n "train": {'  # as a record's text has it, keys sorted: see `bench.record.form.text_of`


@dataclass
class Verdict:
    """What a store holds: ``records`` of ``cells`` cells that are sound, and what is not.

    Of the cells ``untrained`` the record is sound, but not the file of meta-parameters that it names.
    ``damaged`` has (file, what is wrong with it), ``left`` those of them that were not moved away, ``notes``
    what does no harm. ``lost`` are the cells without a sound record, which are to be run again; those of
    a part that cannot be opened are not among them.
    """

    records: int = 0
    cells: set[str] = field(default_factory=set)
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    left: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    untrained: set[str] = field(default_factory=set)
    trainings: set[str] = field(default_factory=set)  # cells with a sound record of one


def verify(store: Store, repair: bool = False) -> Verdict:
    """Look at every record of ``store``, and at the files that trainings have left.

    With ``repair`` what is damaged is moved to ``set_aside/``, after what is sound of a part was saved.
    """
    verdict = Verdict()
    _verify_loose(store, verdict, repair)
    for path in part_paths(store.folder):
        _verify_part(store, path, verdict, repair)
    _verify_repeated(store, verdict, repair)
    _verify_trained(store, verdict, repair)
    verdict.lost -= verdict.cells
    if verdict.records > len(verdict.cells):
        verdict.notes.append(
            f"{verdict.records - len(verdict.cells):,} older or second copies of records; `metabench "
            "compact` drops them when it merges their parts"
        )
    if aside := names(store.folder / "set_aside"):
        files = "damaged file" if len(aside) == 1 else "damaged files"
        verdict.notes.append(f"{len(aside):,} {files} in {store.folder / 'set_aside'}")
    return verdict


def fault(text: bytes | str, name: str, status: str | None = None) -> str | None:
    """What is wrong with the text of the record of cell ``name``; None if nothing is."""
    try:
        record = parse(text, name)
    except UnreadableError as error:
        return str(error)
    if (right := cell_id(record["cell"])) != name:
        return f"describes the cell {right}"
    if status not in (None, record["status"]):
        return f"is {record['status']}, and the column of the part says {status}"
    return None


def _verify_loose(store: Store, verdict: Verdict, repair: bool) -> None:
    known, left = store.loose.names(), 0
    for name in known:
        path, cell = store.loose.at(name), name.partition(".")[0]
        wrong = _verify_file(store, path, verdict, repair)
        if wrong is None:
            verdict.records += 1
            verdict.cells.add(cell)
        elif wrong:
            verdict.lost.add(cell)
        left += wrong != "" and name.endswith(f".{TAKEN}")
    if left:
        verdict.notes.append(f"{left:,} files of a compaction that was killed; the next one takes them in")
    for name in set(names(store.loose.folder)) - {*known, TAKEN}:
        verdict.notes.append(f"{store.loose.folder / name} is none of the store's files")


def _verify_file(store: Store, path: Path, verdict: Verdict, repair: bool) -> str | None:
    """What is wrong with the record in a file; None if it is sound, empty if it has gone just now."""
    while True:
        text = None
        try:
            text = read_text(path)
            if text is None:  # compacted
                return ""
            wrong = fault(text.content, path.name.partition(".")[0])
            if wrong is None:
                _note_training(text.content, path.name.partition(".")[0], verdict)
                return None
        except UnreadableError as error:
            wrong = str(error)
        fate = store.put_record_aside(path, wrong, text and text.digest()) if repair else Fate.STAYS
        if fate is not Fate.CHANGED:  # else it is to be looked at again
            verdict.damaged.append((path, wrong))
            if fate is Fate.STAYS:
                verdict.left.append(path)
            return wrong


def _verify_part(store: Store, path: Path, verdict: Verdict, repair: bool) -> None:
    wrong: list[str] = []
    cells: list[str] = []
    stamp = stamp_of(path)
    try:
        if not intact(path):
            wrong.append("does not have the checksum that is its name")
        for table, faults in _examined(path):
            if isinstance(table, UnreadableError):
                wrong.append(str(table))
                continue
            rows = zip(*(table.column(c).to_pylist() for c in ("id", "json")), faults, strict=True)
            for cell, text, why in rows:
                if why is None:
                    cells.append(cell)
                    _note_training(text.encode(), cell, verdict)
                else:
                    wrong.append(f"holds a record of {cell} that {why}")
                    verdict.lost.add(cell)
    except FileNotFoundError:  # merged just now
        return
    verdict.records += len(cells)
    verdict.cells.update(cells)
    if not wrong:
        return
    more = f" (and {len(wrong) - 1} more faults)" if len(wrong) > 1 else ""
    verdict.damaged.append((path, wrong[0] + more))
    with suppress(UnreadableError, FileNotFoundError):
        for table in tables(path, ["id"]):
            verdict.lost.update(table.column("id").to_pylist())
    if repair:
        sound = (
            table.filter(pa.array([why is None for why in faults], pa.bool_()))
            for table, faults in _examined(path)
            if not isinstance(table, UnreadableError)
        )
        if stamp and store.put_part_aside(path, wrong[0] + more, stamp, sound) is Fate.STAYS:
            verdict.left.append(path)


def _examined(path: Path) -> Iterator[tuple[pa.Table | UnreadableError, list[str | None]]]:
    """Every row group of a part, with what is wrong with each of its records."""
    for table in row_groups(path):
        if isinstance(table, UnreadableError):
            yield table, []
        else:
            rows = zip(*(table.column(c).to_pylist() for c in ("json", "id", "status")), strict=True)
            yield table, [fault(*row) for row in rows]


def _verify_repeated(store: Store, verdict: Verdict, repair: bool) -> None:
    found = 0
    for path in repeated_files(store.folder):
        found += _verify_file(store, path, verdict, repair) is None
    if found:
        verdict.notes.append(f"{found:,} records of cells that have one, in {store.folder / 'repeated'}")


def _note_training(text: bytes, cell: str, verdict: Verdict) -> None:
    if _TRAINING in text:
        verdict.trainings.add(cell)


def _verify_trained(store: Store, verdict: Verdict, repair: bool) -> None:
    """The files that the records which count name, then all others."""
    reader = Store(store.root, store.study, moves=False)
    named: dict[Path, str] = {}
    for record in reader.each(verdict.trainings.__contains__) if verdict.trainings else ():
        path = trained.file_of(store.folder, record)
        if path is None:
            continue
        named[path] = record["id"]
        if wrong := trained.missing(store.folder, record):
            wrong += f": the meta-parameters of cell {record['id']}"
            verdict.untrained.add(record["id"])
            _damaged_training(store, path, wrong, "train the cell again", verdict, repair)
    others = 0
    for path, _, digest in trained.finished(store.folder):
        if path in named:
            continue
        if wrong := trained.fault(path, digest):
            _damaged_training(store, path, wrong, "no record names it", verdict, repair)
        else:
            others += 1
    if others:
        verdict.notes.append(f"{others:,} files of meta-parameters that no record names")
    checkpoints = trained.checkpoints(store.folder)
    for path in checkpoints.values():
        if wrong := trained.fault(path):
            _damaged_training(store, path, wrong, "its cell will be trained from the start", verdict, repair)
    if checkpoints:
        verdict.notes.append(f"{len(checkpoints):,} checkpoints of trainings")


def _damaged_training(
    store: Store, path: Path, wrong: str, then: str, verdict: Verdict, repair: bool
) -> None:
    verdict.damaged.append((path, wrong))
    if repair and path.exists() and store.put_file_aside(path, wrong, then) is Fate.STAYS:
        verdict.left.append(path)
