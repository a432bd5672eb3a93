"""The jobs of a study in `metabench status`: by their claims, with Slurm's own word where there is one."""

import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import asdict
from typing import Any

from bench.cli.text import columns, console, duration, say, warn
from bench.disk import StoreError
from bench.record import Record, Store
from slurm import ends
from slurm.claims import Held, Survey, survey

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

    def plain(self, done: Container[str]) -> dict[str, Any]:
        """For JSON: how many jobs in which state, and each of them; ``done`` are the cells with a record."""
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
        slurm, ended = self._of.silence or "answers", [asdict(end) for end in self._ended(done)]
        return {"states": self._states(), "slurm": slurm, "jobs": jobs, "lost": lost, "ended": ended}

    def say(self, done: Container[str]) -> None:
        """Print them; ``done`` are the cells with a record."""
        for record in self.lost:
            warn(f"{record['id']} {record['status']}: {record['reason']['message']}")
        alive = self._of.alive()
        ended = self._ended(done)
        if not (self._of.held or ended):
            return
        say()
        for line in ends.lines(ended):
            say(line, "red")
        if self._of.silence:
            say(f"jobs by their claims, for Slurm is not asked: {self._of.silence}", "yellow")
        states = ", ".join(f"{count:,} {state}" for state, count in self._states().items())
        left = sum(cell not in done for one in alive for cell in one.claim.cells)
        say(
            f"jobs: {states or 'none'}" + (f"; {left:,} of their cells are still to do" if alive else ""),
            "bold",
        )
        for line in columns([_row(one, done) for one in alive[:SHOWN_JOBS]]):
            say(line)
        if len(alive) > SHOWN_JOBS:
            say(f"  and {len(alive) - SHOWN_JOBS:,} more; `metabench status --json` lists all")

    def _ended(self, done: Container[str]) -> list[ends.End]:
        return ends.noted(self._folder, done, self._of.taken())

    def _states(self) -> dict[str, int]:
        return dict(Counter(map(_state, self._of.alive())).most_common())


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


def _row(one: Held, done: Container[str]) -> tuple[object, ...]:
    claim = one.claim
    n_done = sum(cell in done for cell in claim.cells)
    reason = f"({one.state.reason})" if one.state and one.state.reason else ""
    node = one.state.node if one.state else claim.node
    now = time.time()
    running = [
        f"{cell[:8]} for {duration(now - since)}" for cell, since in claim.running.items() if cell not in done
    ]
    return claim.job, _state(one), reason, node, f"{n_done}/{len(claim.cells)} done", ", ".join(running)
