"""The parts of a study as one: rows of one cell in several parts are versions of its record.

The version that was written last counts. So parts may overlap in any way, and a union of parts says the same
as any part made of them.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bench.disk import Stamp, stamp_of
from bench.record.form import UnreadableError
from bench.record.parquet import COLUMNS, MERGED, part_paths, row_groups, tables

_COLUMNS = [name for name in COLUMNS.names if name != "json"]
_EMPTY = pa.schema([COLUMNS.field(name) for name in _COLUMNS]).empty_table()


@dataclass(frozen=True, eq=False)
class Part:
    """The columns of a part but the records themselves; ``starts`` has the first row of every row group.

    Of one that is damaged, and not ``whole``, the row groups that cannot be read have no rows.
    """

    path: Path
    stamp: Stamp
    columns: pa.Table
    starts: list[int]
    whole: bool = True

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


class Parts:
    """The union of the parts in a folder.

    ``damaged`` is told of one that is damaged, and why, and moves it away with what can be read of it in
    a new part. Of one that stays, what can be read is read.
    """

    def __init__(self, folder: Path, damaged: Callable[[Path, str, Stamp], object]):
        self.folder = folder
        self._damaged = damaged
        self._known: dict[Path, Part] = {}
        self._unreadable: set[tuple[Path, Stamp]] = set()  # those that were told of
        self._winners: dict[str, tuple[Part, int]] | None = None

    def all(self) -> list[Part]:
        """The parts that there are now."""
        known, missed, again = dict(self._known), set(), True
        found: dict[Path, Part] = {}
        while again:
            found, told = {}, len(self._unreadable)
            absent = set()
            for path in part_paths(self.folder):
                part = self._at(path, known.get(path))
                if part is None:
                    absent.add(path)
                else:
                    found[path] = known[path] = part
            # What was merged or moved away meanwhile lies in a part that may not have been listed.
            again = len(self._unreadable) > told or not absent <= missed
            missed |= absent
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
                    if part.whole:
                        self._tell(part.path, part.stamp, str(error))
                        again = True

    def text(self, cell_id: str) -> bytes:
        """The text of a cell's record, empty if it has none."""
        return next((text.encode() for _, text in self.texts(lambda other: other == cell_id)), b"")

    def merged(self, wanted: Container[str]) -> Iterator[tuple[str, str]]:
        """(id, text) of all that was merged in of cells that are ``wanted``, whether it counts or not."""
        for part in self.all():
            rows = [i for i, w in enumerate(part.written) if w < MERGED and part.ids[i] in wanted]
            with suppress(FileNotFoundError, UnreadableError):  # a compaction keeps what it drops of these
                yield from _texts(part, rows)

    def _at(self, path: Path, known: Part | None) -> Part | None:
        """The part at a path, ``known`` if it is still that; None if it has gone or was found damaged."""
        stamp = stamp_of(path)
        if stamp is None:
            return None
        whole = (path, stamp) not in self._unreadable
        if known is not None and known.stamp == stamp and known.whole == whole:
            return known
        return self._load(path, stamp) if whole else _remains(path, stamp)

    def _load(self, path: Path, stamp: Stamp) -> Part | None:
        try:
            return _part(path, stamp, tables(path, _COLUMNS))
        except FileNotFoundError:
            return None
        except UnreadableError as error:
            self._tell(path, stamp, str(error))
            return None

    def _tell(self, path: Path, stamp: Stamp, why: str) -> None:
        self._damaged(path, why, stamp)
        self._unreadable.add((path, stamp))


def _remains(path: Path, stamp: Stamp) -> Part | None:
    """What can be read of a damaged part."""
    groups = (_EMPTY if isinstance(g, UnreadableError) else g.select(_COLUMNS) for g in row_groups(path))
    try:
        return _part(path, stamp, groups, whole=False)
    except FileNotFoundError:
        return None


def _part(path: Path, stamp: Stamp, content: Iterable[pa.Table], whole: bool = True) -> Part:
    groups = list(content)
    starts = list(accumulate(map(len, groups), initial=0))[:-1]
    return Part(path, stamp, pa.concat_tables([_EMPTY, *groups]).combine_chunks(), starts, whole)


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
