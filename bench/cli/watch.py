"""The jobs of a study in `metabench status`: by their claims, with Slurm's own word where there is one."""

import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.cli.foretell import foretell
from bench.cli.standing import Standing
from bench.cli.text import columns, console, duration, say, warn
from bench.disk import StoreError
from bench.record import Record, Store
from slurm import ends
from slurm.claims import Held, Survey, survey, unfinished
from slurm.submission import submissions

SHOWN_JOBS = 12
WATCH_S = 10.0


class Jobs:
    """The jobs that have cells of a study. What dead ones were running gets its record."""

    def __init__(self, store: Store):
        self._folder = store.folder
        self._of: Survey = survey(store.folder)
        self.lost: list[Record] = []
        try:
            self.lost = ends.settle(store, self._of)
        except StoreError as error:  # the folder of somebody else: to be looked at only
            warn(f"what dead jobs were running is not noted: {error}")

    @property
    def are_alive(self) -> bool:
        return bool(self._of.alive())

    def plain(self, of: Standing) -> dict[str, Any]:
        """For JSON: how many jobs in which state, each of them, and seconds of work left."""
        jobs = [
            {
                "job": one.claim.job,
                "state": _state(one),
                "reason": one.state.reason if one.state else None,
                "node": one.state.node if one.state else one.claim.node,
                "cells": one.claim.cells,
                "running": list(one.claim.running),
            }
            for one in self._of.alive()
        ]
        lost = [record["id"] for record in self.lost]
        ended = [asdict(end) for end in self._ended(of)]
        said = {"states": self._states(), "slurm": self._of.silence or "answers", "jobs": jobs, "lost": lost}
        return said | {"ended": ended, "work_left_s": self._ahead(of, self._left(of))}

    def say(self, of: Standing) -> None:
        """Print them, with what is left of the study's cells."""
        for record in self.lost:
            warn(f"{record['id']} {record['status']}: {record['reason']['message']}")
        alive = self._of.alive()
        ended = self._ended(of)
        if not (self._of.held or ended):
            return
        say()
        for line in ends.lines(ended):
            say(line, "red")
        if self._of.silence:
            say(f"jobs by their claims, for Slurm is not asked: {self._of.silence}", "yellow")
        states = ", ".join(f"{count:,} {state}" for state, count in self._states().items())
        left = self._left(of)
        still = f"; {len(left):,} of their cells are still to do" if alive else ""
        say(f"jobs: {states or 'none'}{still}", "bold")
        if left:
            running = sum(cell in left for one in alive for cell in one.claim.running)
            span = duration(self._ahead(of, left) / max(running, 1))
            at_a_time = f" with {running:,} cells at a time" if running > 1 else ""
            say(f"about {span} left{at_a_time}, as predicted")
        for line in columns([_row(one, left) for one in alive[:SHOWN_JOBS]]):
            say(line)
        if len(alive) > SHOWN_JOBS:
            say(f"  and {len(alive) - SHOWN_JOBS:,} more; `metabench status --json` lists all")

    def _left(self, of: Standing) -> set[str]:
        return unfinished(self._of.alive(), of.store, of.statuses | of.strangers)

    def _ahead(self, of: Standing, left: set[str]) -> float:
        """Seconds of work in what is left of the study's cells."""
        cells = [cell for cell in of.cells if cell.id in left]
        return foretell(of, cells).seconds if cells else 0.0

    def _ended(self, of: Standing) -> list[ends.End]:
        return ends.noted(self._folder, of.statuses | of.strangers, self._of.taken())

    def _states(self) -> dict[str, int]:
        return dict(Counter(map(_state, self._of.alive())).most_common())


def last_profile(study_folder: Path) -> str | None:
    """The profile of a study's last submission as --profile names it; None if it was never submitted."""
    for submission in reversed(submissions(study_folder)):
        terms = submission.terms()
        return terms.source or terms.profile
    return None


def watch(show: Callable[[], tuple[int, bool]]) -> int:
    """Show again and again what ``show`` prints, until it says that no job lives. Returns its exit code."""
    try:
        while True:
            if console().is_terminal:
                console().clear()
            code, alive = show()
            if not alive:
                return code
            say(f"once more every {WATCH_S:g} s until no job is left; Ctrl-C ends this, not the jobs", "dim")
            time.sleep(WATCH_S)
    except KeyboardInterrupt:
        return 130


def _state(one: Held) -> str:
    if one.state is not None:
        return one.state.state.lower()
    return "running" if one.claim.running else "waiting"


def _row(one: Held, left: Container[str]) -> tuple[object, ...]:
    claim = one.claim
    n_done = sum(cell not in left for cell in claim.cells)
    reason = f"({one.state.reason})" if one.state and one.state.reason else ""
    node = one.state.node if one.state else claim.node
    now = time.time()
    running = [
        f"{cell[:8]} for {duration(now - since)}" for cell, since in claim.running.items() if cell in left
    ]
    return claim.job, _state(one), reason, node, f"{n_done}/{len(claim.cells)} done", ", ".join(running)
