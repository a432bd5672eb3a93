"""Loose records: one file a cell, which appears, is replaced and goes as a whole.

<id>.json            the record of a cell
<id>.<hex>.taken     one that was about to be removed when its process died: a record like any other,
                     unless its cell has a newer one
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.disk import create, failed, names
from bench.record.form import UnreadableError

JSON, TAKEN = "json", "taken"
_NAME = re.compile(rf"[\w-]+\.(?:{JSON}|[0-9a-f]{{32}}\.{TAKEN})")
ALWAYS = 1 << 63  # later than everything: a file in its place goes before whatever else there is of its cell
T = TypeVar("T")


class Text(NamedTuple):
    """What a file holds, and when it was written (nanoseconds since 1970, by the file system's clock)."""

    content: bytes
    written: int

    def digest(self) -> bytes:
        """Stands for the content."""
        return hashlib.sha256(self.content).digest()


def read_text(path: str | Path) -> Text | None:
    """The content of a file; None if there is none, `UnreadableError` if it is a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)  # half the time of an object for the file
    except FileNotFoundError:  # compacted or set aside by another process just now
        return None
    except OSError as error:
        raise failed("read", Path(path), error) from error
    try:
        stat = os.fstat(descriptor)
        content = os.read(descriptor, stat.st_size + 1)
        while more := os.read(descriptor, stat.st_size) if len(content) < stat.st_size else b"":
            content += more
    except IsADirectoryError:
        raise UnreadableError("is a folder") from None
    except OSError as error:
        raise failed("read", Path(path), error) from error
    finally:
        os.close(descriptor)
    return Text(content, stat.st_mtime_ns)


def take(path: Path, digest: bytes) -> Path | None:
    """Take a file from its place if it holds the text of this ``digest``; returns where it lies then.

    None if it has gone or was replaced; what replaced it stays. There is no way to compare and remove in one
    step, so the file is moved first, to a name that readers know, and put back if it is another one.
    """
    taken = path.with_name(f"{path.name.partition('.')[0]}.{uuid.uuid4().hex}.{TAKEN}")
    try:
        os.rename(path, taken)
    except FileNotFoundError:
        return None
    text = read_text(taken)
    if text is None:  # a compaction has taken it over
        return None
    if text.digest() == digest:
        return taken
    try:
        create(taken, path)
    except FileExistsError:  # a third one: the next compaction weighs the two
        return None
    taken.unlink(missing_ok=True)
    return None


class Loose:
    """The loose records in a folder; ``damaged`` is told of files that are none, and why."""

    def __init__(self, folder: Path, damaged: Callable[[Path, str], None]):
        self.folder = folder
        self._damaged = damaged

    def path(self, cell_id: str) -> Path:
        """Where the record of a cell lies."""
        return self.folder / f"{cell_id}.{JSON}"

    def names(self) -> list[str]:
        """The files of records, sorted, so that those of one cell follow each other; no file of another name."""
        return [name for name in names(self.folder) if _NAME.fullmatch(name)]

    def read(self, name: str, make: Callable[[bytes, str], T]) -> tuple[Text, T] | None:
        """A file's text and what ``make`` makes of it and the cell's id; None if it is gone or damaged."""
        try:
            text = read_text(f"{self.folder}/{name}")
            return text and (text, make(text.content, name.partition(".")[0]))
        except UnreadableError as error:
            self._damaged(self.folder / name, str(error))
            return None

    def each(
        self, make: Callable[[bytes, str], T], wanted: Callable[[str], bool] | None
    ) -> Iterator[tuple[str, int, T]]:
        """Of every cell with a loose file (that is ``wanted``): id, when it was written, what ``make`` makes.

        A cell with several files comes several times; one that lies in its place was written `ALWAYS`.
        """
        for name in self.names():
            cell_id, _, ending = name.partition(".")
            if (wanted is None or wanted(cell_id)) and (found := self.read(name, make)):
                yield cell_id, ALWAYS if ending == JSON else found[0].written, found[1]
