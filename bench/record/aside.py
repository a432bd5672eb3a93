"""Where damaged files go: out of the way of readers, and told of. Nothing is ever deleted unread."""

import os
import uuid
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from bench.record.taking import put_back

FOLDER = "set_aside"


class Fate(Enum):
    """What has become of a file that was found damaged."""

    MOVED = "moved"
    STAYS = "stays"  # it cannot be moved, or is not to be
    CHANGED = "changed"  # it has gone, or another one has its name: what was found is no longer so


class Aside:
    """The damaged files of a study; ``lines`` has one for each. Without ``moves`` they stay."""

    def __init__(self, folder: Path, moves: bool):
        self.folder = folder
        self.moves = moves
        self.lines: list[str] = []

    def put(self, path: Path, why: str, then: str, take: Callable[[], Path | None]) -> Fate:
        """Move away what ``take`` takes from its place: None if that is not what was found damaged."""
        if not self.moves:
            return self.leave(path, why, "it is not moved")
        target = self.folder / FOLDER / f"{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}"
        taken = None
        try:
            target.parent.mkdir(exist_ok=True)
            taken = take()
            if taken is None:
                return Fate.CHANGED
            os.replace(taken, target)
        except FileNotFoundError:  # another process was first
            return Fate.CHANGED
        except OSError as error:
            if taken is not None:
                put_back(taken, path)
            return self.leave(path, why, f"it stays where it is ({error.strerror})")
        self.say(path, why, then, f"moved to {target}")
        return Fate.MOVED

    def leave(self, path: Path, why: str, where: str) -> Fate:
        """Say that a file is damaged and stays."""
        self.say(path, why, where)
        return Fate.STAYS

    def say(self, what: Path | str, why: str, *more: str) -> None:
        """Add a line, once."""
        line = "; ".join(filter(None, (f"{what} {why}", *more)))
        if line not in self.lines:
            self.lines.append(line)
