"""What records say across the edge of stability, in sentences."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from analysis import stability, stats, style, table, units
from analysis.stability import MAML, SIDES, UNSTABLE
from analysis.verdict import Item

WHERE = {"below": "below the edge", "at": "at the edge", "above": "beyond the edge"}


def items(here: pd.DataFrame) -> list[Item]:
    """All sentences on the rows of `stability.measured`."""
    narrow = stability.first_dtype(here)
    last = stability.longest(narrow)
    found = [Item("Is MAML's meta-gradient unstable?", "", _unstable(last, fewest(narrow)))]
    for side in SIDES:
        if parts := _each(last, side, stability.GROWTH, median):
            found.append(Item(f"Growth of the norm {WHERE[side]}", "", parts))
    found += _back(stability.longest(stability.widest(here)))
    for side in SIDES:
        if parts := _each(last, side, None, lambda mine, _: str(stability.not_finite(mine))):
            found.append(Item(f"Not finite {WHERE[side]}", "", parts))
    if (saved := stability.overflows(here)) is not None and saved.n:
        text = f"{saved.k:,} of {saved.n:,} ({saved}): there only the range of float32 is left."
        found.append(Item("Of MAML's that are not finite in float32, finite in float64", "", text))
    for side in SIDES:
        if parts := _each(last, side, stability.COSINE, cosine):
            found.append(Item(f"Cosine to the implicit gradient {WHERE[side]}, where finite", "", parts))
    rounding = [
        f"{WHERE[side]} {median(mine, stability.ERROR)}{_of(stability.median(mine, stability.ERROR))}"
        for side in SIDES
        if stability.median(mine := stability.of(last, MAML, side), stability.ERROR).found.n
    ]
    if rounding:
        text = f"relative error in {last['dtype'].iloc[0]} {'; '.join(rounding)}."
        found.append(Item("MAML to its own exact derivative in float64, where finite", "", text))
    right = stability.foretold(last)
    if right.n:
        text = (
            f"{right.k:,} of {right.n:,} of MAML's meta-gradients ({right}) grow more than {UNSTABLE:g}-fold "
        )
        found.append(Item("Does the edge foretell it?", "", f"{text}beyond it, or do not below it."))
    return found


def _unstable(last: pd.DataFrame, fewest: str) -> str:
    """The answer: on which sides the norm grows for certain, and by how much."""
    grown, parts = {}, []
    for side in ("below", "above"):
        mine = stability.of(last, MAML, side)
        answer = stability.median(mine, stability.GROWTH)
        low, high = answer.found.low, answer.found.high
        if answer.found.n == 0 or math.isnan(low):
            grown[side] = None
        else:
            grown[side] = True if low > UNSTABLE else False if high <= UNSTABLE else None
        if answer.found.n:
            text = f"{WHERE[side]} its norm changes by a factor of {median(mine, stability.GROWTH)}"
            lost = stability.not_finite(mine)
            text += f" and {lost.k:,} of {lost.n:,} are not finite ({lost})"
            parts.append(f"{text}{_of(answer)}")
    if not parts:
        return "Not known: no MAML with more than one number of inner steps."
    below, above = grown["below"], grown["above"]
    heads = {
        (False, True): "Only beyond the edge of stability",
        (True, True): "Yes, on both sides of the edge of stability",
        (False, False): "No, on neither side of the edge of stability",
        (True, False): "Only below the edge of stability",
        (False, None): "Not below the edge of stability, and not decided beyond it",
        (None, True): "Beyond the edge of stability, and not decided below it",
        (True, None): "Below the edge of stability, and not decided beyond it",
        (None, False): "Not beyond the edge of stability, and not decided below it",
    }
    head = heads.get((below, above), "Not decided on either side of the edge of stability")
    return f"{head}: from K = {fewest.split()[0]} to K = {steps(last)}, {'; '.join(parts)}."


def _back(last: pd.DataFrame) -> list[Item]:
    """What the way back alone multiplies the norm by."""
    parts = []
    for side in SIDES:
        mine = stability.of(last, MAML, side)
        answer = stability.median(mine, stability.BACK)
        if answer.found.n:
            parts.append(f"{WHERE[side]} {median(mine, stability.BACK)}{_of(answer)}")
    text = f"MAML's norm is FOMAML's, which has no way back, times {'; '.join(parts)}."
    return [Item(f"The way back alone, K = {steps(last)}", "", text)] if parts else []


def _each(here: pd.DataFrame, side: str, column: str | None, text: Callable[[pd.DataFrame, Any], str]) -> str:
    """What ``text`` says of each method on a side of the edge; "" where none has a value."""
    parts = []
    for method in style.ordered(here["method"]):
        mine = here[(here["method"] == method) & (here[stability.SIDE] == side)]
        if column is not None:
            mine = mine[mine[column].notna()]
        if len(mine):
            parts.append(f"{method} {text(mine, column)} (n = {len(mine):,} of {_seeds(mine)})")
    return f"{'; '.join(parts)}." if parts else ""


def median(here: pd.DataFrame, column: str) -> str:
    """Text such as "2.0e27 [3.9e10, ∞]"."""
    found = stability.median(here, column).found
    return _interval(found, units.digits)


def cosine(here: pd.DataFrame, column: str) -> str:
    """Text such as "0.010 [-0.010, 0.243]"."""
    return _interval(stability.median(here, column).found, units.cosine)


def _interval(found: stats.Interval, text: Callable[[float], str]) -> str:
    middle, low, high = ("∞" if math.isinf(v) else text(v) for v in (found.median, found.low, found.high))
    return middle if math.isnan(found.low) else f"{middle} [{low}, {high}]"


def _of(answer: stability.Answer) -> str:
    tasks, seeds = units.many(answer.tasks, "task"), units.many(answer.seeds, "seed")
    return f" (n = {answer.found.n:,}: {tasks} of {seeds}, over step sizes)"


def fewest(here: pd.DataFrame) -> str:
    """Text such as "1 inner step"."""
    least = int(here[table.STEPS].min())
    return units.many(least, "inner step")


def steps(last: pd.DataFrame) -> int:
    """The most inner steps."""
    return int(last[table.STEPS].max())


def _seeds(here: pd.DataFrame) -> str:
    return units.many(here["seed"].nunique(), "seed")
