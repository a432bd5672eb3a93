"""The records of one study: written by any number of processes on any machine, read as a whole."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from errno import EBUSY
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from bench.disk import Stamp, StoreError, beside, create, litter, stamp_of, sync_folder, write_new
from bench.record import compaction, fallback, trained
from bench.record.aside import Aside, Fate
from bench.record.form import Record, UnreadableError, parse, rank, status_in, text_of
from bench.record.loose import ALWAYS, Loose, read_text, take
from bench.record.parquet import is_part, row_groups, take_part, write_part
from bench.record.parts import Parts
from bench.record.repeated import add_repeated, differences, keep_repeated, repeated_files

T = TypeVar("T")
_ATTEMPTS = 100  # every one that fails is another process's success


class Store:
    """The records of one study under ``root``.

    Reading changes nothing, except that a damaged file is moved aside: ``set_aside`` has one line for each.
    Without ``moves`` it stays too, and of a part what can be read is read. Everything raises `StoreError`
    where the folder cannot be read or written, and `UsageError` where a newer version of metabench wrote it.
    """

    def __init__(self, root: str | Path, study: str, moves: bool = True):
        self.root = Path(root)
        self.study = study
        self.folder = self.root / study
        self._aside = Aside(self.folder, moves)
        self.set_aside = self._aside.lines
        self.loose = Loose(self.folder / "records", self.put_record_aside)
        self.parts = Parts(self.folder, self.put_part_aside)

    def write(self, record: Record, replace: bool = False) -> Path:
        """Store a record. Returns the file.

        A cell that has an ok record keeps it, and this one goes to the repeated records; any other record of
        the cell makes way for it, as every one does with ``replace``. Of two writers at once neither is lost.

        Raises `ValueError` if it is no record, and `StoreError` where the folder cannot be written: it names
        the file outside the store in which the record then lies.
        """
        content, cell_id = text_of(record), record["id"]
        try:
            return self.put(cell_id, content, replace)
        except (OSError, StoreError) as error:

            def elsewhere(folder: Path) -> Path:
                return Store(folder, self.study).put(cell_id, content)

            raise fallback.keep(error, self.loose.path(cell_id), self.root, elsewhere) from error

    def put(self, cell_id: str, content: bytes, replace: bool = False, weigh: bool = False) -> Path:
        """As `write`, for the text of a record. Raises `OSError` or `StoreError`; leaves no litter.

        With ``weigh`` every record that is as good stays, and one that makes way is kept as a repeated one.
        """
        path = self.loose.path(cell_id)
        own = rank(status_in(content, cell_id)) if weigh else rank("ok")
        with beside(path) as new:
            write_new(new, content)
            for _ in range(_ATTEMPTS):
                there = self.loose.read(path.name, status_in)
                # Before parts: what is compacted in the meantime is then seen twice, not never.
                left = None if there else self.loose.left(cell_id, status_in)
                before = status, latest = self.parts.find(cell_id)
                if left is not None and left[0].written <= latest:
                    left = None
                if counts := there or left:
                    status, latest = counts[1], max(latest, counts[0].written)
                if there is not None and there[0].content == content:  # a network has said that it failed
                    break
                if new.stat().st_mtime_ns <= latest:  # another machine's clock is ahead
                    os.utime(new, ns=(latest + 1, latest + 1))
                if replace:
                    os.replace(new, path)
                    break
                if status is not None and rank(status) >= own:
                    return keep_repeated(self.folder, new, cell_id)
                if status is not None and weigh:
                    other = counts[0].content if counts else self.parts.text(cell_id)
                    add_repeated(self.folder, cell_id, other)
                if self._create(new, path, there[0].digest() if there else None):
                    # A better record may have come and been compacted, or merged in, while the name was free.
                    now = self.parts.find(cell_id)
                    came = now != before and now[0] is not None and rank(now[0]) >= own
                    if came and self.parts.text(cell_id) != content:
                        mine = take(path, hashlib.sha256(content).digest())
                        if mine is not None:
                            return keep_repeated(self.folder, mine, cell_id)
                    break
            else:
                raise OSError(EBUSY, "other processes write it all the time", str(path))
        sync_folder(path.parent)
        return path

    def read(self, cell_id: str) -> Record | None:
        """The record of a cell; None if there is none, or only a damaged one."""
        found = self.loose.read(self.loose.path(cell_id).name, parse)
        return found[1] if found else next(self.each(lambda other: other == cell_id), None)

    def ids(self) -> dict[str, str]:
        """The status of every stored cell, without a look at the rest of its record."""
        found = dict(self._loose(status_in))
        # Parts are read last: what is compacted in the meantime is then seen twice, not never.
        in_parts = {i: part.statuses[row] for i, (part, row) in self.parts.index().items()}
        return dict(sorted((in_parts | found).items()))

    def each(self, wanted: Callable[[str], bool] | None = None) -> Iterator[Record]:
        """The records of all cells, or of those whose ids are ``wanted``, one by one in no order."""
        return (record for _, record in self.texts(wanted))

    def texts(self, wanted: Callable[[str], bool] | None = None) -> Iterator[tuple[bytes, Record]]:
        """As `each`, every record with its text."""
        done = set()
        for cell_id, found in self._loose(lambda text, i: (text, parse(text, i)), wanted):
            done.add(cell_id)
            yield found
        for cell_id, text in self.parts.texts(lambda i: i not in done and (wanted is None or wanted(i))):
            try:
                yield text.encode(), parse(text, cell_id)
            except UnreadableError as error:
                where = f"the record of {cell_id} in a part in {self.folder}"
                repair = f"`metabench verify {self.study} --repair`"
                self._aside.say(where, str(error), f"{repair} takes it out, so that its cell is run again")

    def records(self) -> list[Record]:
        """All records, in the order of their ids."""
        return sorted(self.each(), key=lambda record: record["id"])

    def repeated(self) -> list[tuple[str, bool]]:
        """The cells that were run again unasked: id, and whether the deterministic results agree."""
        others: dict[str, list[Record]] = {}
        for path in repeated_files(self.folder):
            cell_id, text = path.name.partition(".")[0], None
            try:
                if text := read_text(path):
                    record = parse(text.content, cell_id)
                    others.setdefault(cell_id, []).append(record)
            except UnreadableError as error:
                self.put_record_aside(path, str(error), text and text.digest())
        firsts = {record["id"]: record for record in self.each(others.__contains__)} if others else {}
        return [
            (i, not any(differences(firsts[i], other) for other in records if i in firsts))
            for i, records in others.items()
        ]

    def compact(self) -> list[Path]:
        """Move all loose records into parts, merge small parts, and return the parts that there are now.

        Raises `StoreError` where there are no records, or the folder cannot be written. May be killed at any
        moment, and run beside writers, readers and other compactions.
        """
        compaction.compact(self.folder, self.loose, self.parts)
        paths = [part.path for part in self.parts.all()]
        if not paths and not self.ids():  # a writer may have had the only one in hand
            raise StoreError(f"there are no records in {self.folder} to compact")
        return paths

    def discard_litter(self) -> None:
        """Remove temporary files whose writer died long ago."""
        for folder in (self.folder, self.loose.folder, self.folder / trained.FOLDER):
            for path in litter(folder):
                with suppress(OSError):  # gone, or not ours to remove: it does no harm
                    path.unlink()

    def put_record_aside(self, path: Path, why: str, digest: bytes | None) -> Fate:
        """Move a damaged file of a record to where nothing reads it, if it has this ``digest`` still."""
        cell_id = path.name.partition(".")[0]
        own = self.loose.path(cell_id)
        alone = path in (own, self.loose.at(path.name)) and self.parts.find(cell_id)[0] is None
        if alone and path != own:
            alone = not own.exists()
        then = "its cell will be run again" if alone else ""
        return self._aside.put(path, why, then, lambda: take(path, digest))

    def put_part_aside(
        self, path: Path, why: str, stamp: Stamp, sound: Iterable[pa.Table] | None = None
    ) -> Fate:
        """Move a damaged part to where nothing reads it, if it has this ``stamp`` still.

        Before, what is ``sound`` of it goes into a new one. Where that is not possible the part stays.
        """
        if not self._aside.moves:
            return self._aside.leave(path, why, "what can be read of it is read")
        readable = (table for table in row_groups(path) if isinstance(table, pa.Table))
        try:
            saved = write_part(self.folder, readable if sound is None else sound)
        except StoreError as error:
            if stamp_of(path) != stamp:
                return Fate.CHANGED
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else error
            where = f"what can be read of it is read; it stays where it is ({reason})"
            return self._aside.leave(path, why, where)
        if saved == path:  # the damage was where no record is
            self._aside.say(path, why, "all its records could be read, and it was written anew")
            return Fate.MOVED
        then = "the cells in it will be run again"
        if saved:
            then = f"what can be read of it is now in {saved}, other cells will be run again"
        return self._aside.put(path, why, then, lambda: take_part(path, stamp))

    def put_file_aside(self, path: Path, why: str, then: str) -> Fate:
        """Move another damaged file to where nothing reads it."""
        return self._aside.put(path, why, then, lambda: path)

    def _loose(
        self, make: Callable[[bytes, str], T], wanted: Callable[[str], bool] | None = None
    ) -> Iterator[tuple[str, T]]:
        """(id, what ``make`` makes) of the cells whose record is a loose file."""
        seen: set[str] = set()
        taken: dict[str, tuple[int, T]] = {}
        for cell_id, written, value in self.loose.each(make, wanted):
            if written == ALWAYS:
                seen.add(cell_id)
                yield cell_id, value
            elif cell_id not in taken or taken[cell_id][0] < written:
                taken[cell_id] = (written, value)
        for cell_id, (written, value) in taken.items():
            if cell_id not in seen and written > self.parts.find(cell_id)[1]:
                yield cell_id, value

    def _create(self, new: Path, path: Path, digest: bytes | None) -> bool:
        """Put a file in the place of the one with this ``digest``, or of none; False if it is another now."""
        taken = take(path, digest) if digest else None
        if digest and taken is None:
            return False
        try:
            create(new, path)
            created = True
        except FileExistsError:
            created = False
        if taken is not None:  # after any other error it stays, and still counts
            taken.unlink(missing_ok=True)
        return created


def studies(root: str | Path) -> list[str]:
    """The studies that have records under ``root``."""
    found = [*Path(root).glob("*/records"), *Path(root).glob("*/records*.parquet")]
    return sorted({path.parent.name for path in found if path.name == "records" or is_part(path.name)})


def find(root: str | Path, prefix: str) -> list[tuple[str, Record]]:
    """(study, record) of all cells under ``root`` whose id begins with ``prefix``."""
    return [
        (study, record)
        for study in studies(root)
        for record in sorted(Store(root, study).each(lambda i: i.startswith(prefix)), key=lambda r: r["id"])
    ]
