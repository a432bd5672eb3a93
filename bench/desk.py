"""What a running cell has at hand beside its description."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Desk:
    """The folder of the cell's study, where it has one, and somebody to tell how far it is.

    progress: called with the steps that are done and all steps. anew: what an earlier run left is not used.
    """

    folder: Path | None = None
    progress: Callable[[int, int], None] = lambda done, steps: None
    anew: bool = False
