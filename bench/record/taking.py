"""Taking a file from its place if it is the one that was looked at.

There is no way to compare and remove in one step. So the file is moved first, to a name under which readers
still find what it holds, and put back if it is another one: killed anywhere, nothing is lost.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.disk import create


def take_if(path: Path, taken: Path, is_it: Callable[[Path], bool]) -> Path | None:
    """Move ``path`` to ``taken`` if ``is_it`` says yes of it there; None if it has gone or was replaced."""
    try:
        os.rename(path, taken)
    except FileNotFoundError:
        return None
    if is_it(taken):
        return taken
    put_back(taken, path)
    return None


def put_back(taken: Path, path: Path) -> None:
    """Give a file that was taken its name again; where another has it by now, both stay."""
    with suppress(FileNotFoundError, FileExistsError, NotADirectoryError):  # gone, or there are two now
        if taken.is_dir():
            os.rename(taken, path)
        else:
            create(taken, path)
            taken.unlink(missing_ok=True)
