"""Where a record goes that its store cannot take: a store of the same form in another folder.

<folder>/<results>-<hash>/<study>/records/<id>.json
    folder: METABENCH_FALLBACK, else <tempdir>/metabench-fallback-<uid>
    results, hash: name of the folder of results, and hash of its path
"""

import hashlib
import os
import shlex
import tempfile
from collections.abc import Callable
from errno import EACCES
from pathlib import Path

from bench.disk import StoreError

VARIABLE = "METABENCH_FALLBACK"


def keep(
    error: OSError | StoreError, path: Path, root: Path, elsewhere: Callable[[Path], Path]
) -> StoreError:
    """Store by ``elsewhere`` (given a folder) what could not be written to ``path`` in the results ``root``.

    Returns the error that says so, and how to bring the record in.
    """
    first = f"cannot write {path}: {_why(error)}"
    folder = os.environ.get(VARIABLE) or None
    try:
        folder = Path(folder) if folder else _own_folder()
        folder /= f"{root.absolute().name}-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]}"
        file = elsewhere(folder)  # apart, for two folders may hold studies of one name
    except (OSError, StoreError) as second:
        return StoreError(
            f"{first}. Nor could the record be kept in {folder or tempfile.gettempdir()}: {_why(second)}. "
            f"Finished records are safe, this cell will be run again; make room, or set {VARIABLE} to a "
            "folder that can be written"
        )
    command = shlex.join(["metabench", "merge", str(folder), "--results", str(root)])
    return StoreError(
        f"{first}. The record is kept in {file}. Finished records are safe; make room or give access, then "
        f"bring it in with: {command}"
    )


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"metabench-fallback-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.lstat()
    if stat.st_uid != os.getuid() or folder.is_symlink():  # anybody may make folders there
        raise OSError(EACCES, "the folder is somebody else's", str(folder))
    return folder


def _why(error: OSError | StoreError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
