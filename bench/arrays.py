"""Named arrays in one file, whole or not at all: checkpoints and trained meta-parameters.

numpy's own format, without pickle. The same arrays make the same bytes.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np

from bench.disk import failed, write_whole
from bench.errors import UsageError

Arrays = dict[str, np.ndarray]


def write(path: Path, arrays: Arrays) -> str:
    """Write a file, replacing what is there; returns the SHA-256 of its content. Raises `StoreError`."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def read(path: Path, sha256: str | None = None) -> Arrays:
    """The arrays of a file, of the one with this SHA-256 where it is given.

    Raises `UsageError` where there is none, where it is damaged, or where it is another one.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no {path}") from None
    except OSError as error:
        raise failed("read", path, error) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise UsageError(f"{path} is not what it was: its SHA-256 is {found[:16]}..., not {sha256[:16]}...")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is damaged ({error}); delete it") from error
