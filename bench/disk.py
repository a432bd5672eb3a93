"""Files that many processes share: written as a whole or not at all, and errors that name the path."""

import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ELOOP, EMLINK, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM
from pathlib import Path

from bench.errors import UsageError

LITTER_AGE_S = 3600.0  # a temporary file lives for milliseconds; one of this age has lost its writer
_NO_LINKS = (EPERM, EMLINK, ENOSYS, ENOTSUP, EOPNOTSUPP)  # what file systems without hard links answer
_LITTER = re.compile(r"\..+\.\d+\.[0-9a-f]{32}\.tmp")  # as `beside` names files
Stamp = tuple[int, int, int]


class StoreError(UsageError):
    """The results folder cannot be read or written: names the path, says why and what to do."""


def failed(verb: str, path: Path, error: OSError) -> StoreError:
    """The error for ``path``, which could not be read, written or removed."""
    return StoreError(
        f"cannot {verb} {path}: {error.strerror or error}. Finished records are safe; make room or give "
        "access, or choose another folder with --results DIR"
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, and have it on the disk on return; makes its folder.

    Raises `StoreError`, and leaves nothing behind, where that is not possible.
    """
    try:
        with beside(path) as part:
            write_new(part, content)
            os.replace(part, path)
    except OSError as error:
        raise failed("write", path, error) from error
    sync_folder(path.parent)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """The name for a temporary file in the folder of ``path``, which is made; no such file is left behind.

    The name is unique over processes and machines; the same folder makes a replacement one step.
    """
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_new(path: Path, content: bytes) -> None:
    """Make a file that does not exist yet and have it on the disk. Raises `OSError`."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def create(part: Path, path: Path) -> None:
    """Give the finished file ``part`` the name ``path``, unless there is such a file: `FileExistsError`."""
    try:
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Claims the name in one step; who comes upon the claim, which is empty, takes it for damaged.
        with open(path, "xb"):
            pass
        try:
            os.replace(part, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; not every file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted, without those that begin with a dot; none if there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise failed("read", folder, error) from error


def litter(folder: Path) -> list[Path]:
    """The temporary files in a folder whose writers died long ago."""
    old = []
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _LITTER.fullmatch(entry.name):
                with suppress(OSError):  # gone
                    if time.time() - entry.stat().st_mtime > LITTER_AGE_S:
                        old.append(Path(entry))
    return sorted(old)


def stamp_of(path: Path) -> Stamp | None:
    """What changes whenever a file is replaced; None if there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != ELOOP:
            raise failed("read", path, error) from error
        stat = path.lstat()  # of a link that leads in a circle
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
