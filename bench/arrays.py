"""Named arrays in one file, whole or not at all: checkpoints and trained meta-parameters.

numpy's own format, without pickle. The same arrays make the same bytes.
"""

import hashlib
import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from bench.disk import failed, write_whole
from bench.errors import UsageError

Arrays = dict[str, np.ndarray]
# What numpy and zipfile raise on content that is no such file, or is broken somewhere.
_BROKEN = (ValueError, OSError, EOFError, KeyError, TypeError, NotImplementedError, RuntimeError)
_BROKEN += (zipfile.BadZipFile, zlib.error, struct.error)


class DamagedError(UsageError):
    """A file that holds other arrays than it should, or none: names it and says why."""


def packed(arrays: Arrays) -> bytes:
    """The content of a file of ``arrays``."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def write(path: Path, arrays: Arrays) -> None:
    """Write a file, replacing what is there. Raises `StoreError`."""
    write_whole(path, packed(arrays))


def read(path: Path, sha256: str | None = None) -> Arrays:
    """The arrays of a file, of the one whose SHA-256 begins with ``sha256`` where it is given.

    Raises `UsageError` where there is none, and `DamagedError` where it is no such file or another one.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except OSError as error:
        raise failed("read", path, error) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and not found.startswith(sha256):
        raise DamagedError(f"{path} is not what it was: its SHA-256 is {found[:16]}..., not {sha256[:16]}...")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except _BROKEN as error:
        why = str(error)
        if "pickle" in why:  # numpy advises to trust the file
            why = "it holds what is no plain array, which is never read"
        elif isinstance(error, TypeError):  # of a single array
            why = "it is no .npz archive"
        raise DamagedError(f"{path} is damaged ({why}); delete it") from error
