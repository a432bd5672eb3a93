"""Progress of a sweep: a live bar in a terminal, a line every few per cent in a log."""

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.cli.text import duration, say

LINES = 20  # at most this many lines in a log
MEMORY_S = 900.0  # the bar's time left is judged by the cells of this last while


class Display(Protocol):
    """Shows how many cells are done and how many of them failed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def step(self, failed: bool) -> None:
        """One more cell is done."""
        ...

    def inside(self, text: str) -> None:
        """How far a cell is that takes steps."""
        ...


class Bar:
    """A live bar: count, rate, failures, time spent and time left."""

    def __init__(self, console: Console, total: int):
        self._failed = 0
        self._started = time.monotonic()
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[inside]}"),
            TextColumn("{task.fields[rate]}"),
            TextColumn("[red]{task.fields[failed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            speed_estimate_period=MEMORY_S,
        )
        self._task = self._progress.add_task("", total=total, rate="", failed="", inside="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, failed: bool) -> None:
        """One more cell is done."""
        self._failed += failed
        done = self._progress.tasks[0].completed + 1
        text = f"{self._failed} failed" if self._failed else ""
        rate = _rate(done, time.monotonic() - self._started)
        self._progress.update(self._task, advance=1, rate=rate, failed=text, inside="")

    def inside(self, text: str) -> None:
        """How far a cell is that takes steps."""
        self._progress.update(self._task, inside=text)


class Lines:
    """At most `LINES` lines in all, for output that goes to a file."""

    def __init__(self, total: int):
        self._total, self._done, self._failed = total, 0, 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def step(self, failed: bool) -> None:
        """One more cell is done; prints where a line's share of the cells is full."""
        self._done += 1
        self._failed += failed
        if self._done * LINES // self._total == (self._done - 1) * LINES // self._total:
            return
        spent = time.monotonic() - self._started
        left = spent / self._done * (self._total - self._done)
        say(
            f"{self._done}/{self._total} ({100 * self._done // self._total} %)  {_rate(self._done, spent)}  "
            f"{self._failed} failed  {duration(spent)} spent  {duration(left)} left"
        )

    def inside(self, text: str) -> None:
        """A log is for what is done."""


def display(console: Console, total: int) -> Display:
    """The bar where ``console`` is a terminal, else lines."""
    return Bar(console, total) if console.is_terminal else Lines(total)


def _rate(done: float, seconds: float) -> str:
    per_second = done / max(seconds, 1e-9)
    if per_second >= 1:
        return f"{per_second:.1f} cells/s"
    return f"{60 * per_second:.1f} cells/min" if per_second >= 1 / 60 else f"{3600 * per_second:.1f} cells/h"
