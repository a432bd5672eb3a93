"""Loose records: one file a cell, which appears, is replaced and goes as a whole.

<id>.json                  the record of a cell
taken/<id>.<hex>.taken     one that was about to be removed when its process died: a record like any other,
                           unless its cell has a newer one

The second kind has a folder of its own so that whoever writes a record need not list all others to find them.
"""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator
from errno import ELOOP
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench.disk import failed, names
from bench.record.aside import Fate
from bench.record.form import UnreadableError
from bench.record.taking import take_if

JSON, TAKEN = "json", "taken"
_NAME = {JSON: re.compile(rf"[\w-]+\.{JSON}"), TAKEN: re.compile(rf"[\w-]+\.[0-9a-f]{{32}}\.{TAKEN}")}
ALWAYS = 1 << 63  # later than everything: a file in its place goes before whatever else there is of its cell
_LOOKS = 5  # at a file that is moved whenever it is looked at
T = TypeVar("T")


class Text(NamedTuple):
    """What a file holds, and when it was written (nanoseconds since 1970, by the file system's clock)."""

    content: bytes
    written: int

    def digest(self) -> bytes:
        """Stands for the content."""
        return hashlib.sha256(self.content).digest()


def read_text(path: str | Path) -> Text | None:
    """The content of a file; None if there is none, `UnreadableError` if it can never have any."""
    try:
        descriptor = os.open(path, os.O_RDONLY)  # half the time of an object for the file
    except FileNotFoundError:  # compacted or set aside by another process just now
        return None
    except OSError as error:
        if error.errno == ELOOP:
            raise UnreadableError("is a symbolic link that leads in a circle") from error
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


def take(path: Path, digest: bytes | None) -> Path | None:
    """Take a file from its place if it holds the text of this ``digest``; returns where it lies then.

    ``digest`` is None of what holds no text: a folder. None if it has gone or was replaced; what replaced it
    stays.
    """
    folder = path.parent if path.parent.name == TAKEN else path.parent / TAKEN
    folder.mkdir(exist_ok=True)
    taken = folder / f"{path.name.partition('.')[0]}.{uuid.uuid4().hex}.{TAKEN}"
    return take_if(path, taken, lambda file: _holds(file, digest))


def taken_names(folder: Path) -> list[str]:
    """The files that were taken from their places in a folder, and lie in the one for them."""
    return [name for name in names(folder / TAKEN) if _NAME[TAKEN].fullmatch(name)]


def _holds(path: Path, digest: bytes | None) -> bool:
    try:
        text = read_text(path)
    except UnreadableError:
        return digest is None
    if text is None:  # a compaction has taken it over; but a link to its own name leads nowhere now
        return digest is None and path.is_symlink()
    return text.digest() == digest


class Loose:
    """The loose records in a folder.

    ``damaged`` is told of a file that is none, why, and the digest of its text (None if it has none). It
    answers what has become of the file.
    """

    def __init__(self, folder: Path, damaged: Callable[[Path, str, bytes | None], Fate]):
        self.folder = folder
        self._damaged = damaged

    def path(self, cell_id: str) -> Path:
        """Where the record of a cell lies."""
        return self.folder / f"{cell_id}.{JSON}"

    def at(self, name: str) -> Path:
        """Where a file of `names` lies."""
        return Path(self._at(name))

    def names(self) -> list[str]:
        """The files of records, and no others, sorted, so that those of one cell follow each other."""
        found = set(self._in_place())
        if os.path.lexists(self.folder / TAKEN):
            found.update(taken_names(self.folder))
            # What was taken at the first look may have had its name again at the second.
            found.update(self._in_place())
        return sorted(found)

    def read(
        self, name: str, make: Callable[[bytes, str], T], gone: set[str] | None = None
    ) -> tuple[Text, T] | None:
        """A file's text and what ``make`` makes of it and the cell's id; None if it is gone or damaged.

        ``gone`` takes in the cell if the file is not there.
        """
        cell_id = name.partition(".")[0]
        for _ in range(_LOOKS):
            text = None
            try:
                text = read_text(self._at(name))
                if text is not None:
                    return text, make(text.content, cell_id)
                if gone is not None:
                    gone.add(cell_id)
                return None
            except UnreadableError as error:
                if self._damaged(self.at(name), str(error), text and text.digest()) is not Fate.CHANGED:
                    break
        return None

    def left(self, cell_id: str, make: Callable[[bytes, str], T]) -> tuple[Text, T] | None:
        """As `read`, of the newest file of a cell that was about to be removed."""
        own = (name for name in taken_names(self.folder) if name.startswith(f"{cell_id}."))
        found = [read for name in own if (read := self.read(name, make))]
        return max(found, key=lambda read: read[0].written, default=None)

    def each(
        self, make: Callable[[bytes, str], T], wanted: Callable[[str], bool] | None
    ) -> Iterator[tuple[str, int, T]]:
        """Of every cell with a loose file (that is ``wanted``): id, when it was written, what ``make`` makes.

        A cell with several files comes several times; one that lies in its place was written `ALWAYS`.
        """
        found = self.names()
        for _ in range(_LOOKS):
            gone: set[str] = set()
            for name in found:
                cell_id, _, ending = name.partition(".")
                if (wanted is None or wanted(cell_id)) and (read := self.read(name, make, gone)):
                    yield cell_id, ALWAYS if ending == JSON else read[0].written, read[1]
            if not gone:
                break
            # Compacted, or under another name for a moment.
            found = [name for name in self.names() if name.partition(".")[0] in gone]

    def _in_place(self) -> Iterator[str]:
        return (name for name in names(self.folder) if _NAME[JSON].fullmatch(name))

    def _at(self, name: str) -> str:
        return f"{self.folder}/{TAKEN}/{name}" if name.endswith(f".{TAKEN}") else f"{self.folder}/{name}"
