"""How long cells that are to do are likely to take, in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.cells import Cell
from bench.cli.standing import Standing
from bench.cli.text import counting, duration
from bench.predict import LOOKED_AT, predict

BUDGET_S = 1.5  # to look at records and plugins, however many cells there are
BY = {
    "done cells": "as with other seeds",
    "like cells": "as others of their problem and method",
    "its plugins": "as their plugins say",
    "oracle calls": "by declared oracle calls",
    "default": "at a minute each, for want of better",
}


@dataclass(frozen=True)
class Foretold:
    """``seconds`` of work, and of how many cells it is known by what."""

    seconds: float
    by: Mapping[str, int]


def foretell(of: Standing, cells: Sequence[Cell]) -> Foretold:
    """The work in ``cells`` of a study."""
    done = (cell for cell in of.cells if of.state(cell) in LOOKED_AT)
    found = predict(cells, done, of.store.each, BUDGET_S, memory=False)
    return Foretold(sum(one.seconds for one in found), Counter(one.how for one in found))


def work_ahead(of: Foretold) -> str:
    """In one line how much work is ahead, and by what that is known."""
    by = [f"{count:,} {BY[how]}" for how, count in of.by.items()]
    n = counting(sum(of.by.values()), "cell")
    return f"about {duration(of.seconds)} of work in {n}: {', '.join(by)}"
