"""Files that many processes share: written as a whole or not at all, and errors that name the path."""

import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

from bench.errors import UsageError

LITTER_AGE_S = 3600.0  # a temporary file lives for milliseconds; one of this age has lost its writer
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
    # The name is unique over processes and machines; the same folder makes the replacement one step.
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise failed("write", path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def files(folder: Path, ending: str) -> list[Path]:
    """The files of a folder, sorted; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry) for entry in entries if entry.name.endswith(ending))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise failed("read", folder, error) from error


def stamp_of(path: Path) -> Stamp | None:
    """What changes whenever a file is replaced; None if there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failed("read", path, error) from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def discard_litter(folder: Path) -> None:
    """Remove what writers that died long ago have left in a folder."""
    for path in files(folder, ".tmp"):
        with suppress(OSError):  # gone, or not ours to remove: it does no harm
            if time.time() - path.stat().st_mtime > LITTER_AGE_S:
                path.unlink()
