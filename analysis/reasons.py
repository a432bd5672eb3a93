"""Reasons of failures and of missing references, grouped although their numbers differ."""

import re
from typing import NamedTuple

import pandas as pd

_NUMBERS = re.compile(r"\d[\d.]*(e[+-]?\d+)?(, \d[\d.]*)*")


class Kind(NamedTuple):
    """Reasons that differ in numbers only: one of them, how many, where they stand in the series."""

    example: str
    n: int
    where: pd.Index
    several: bool  # whether their numbers do differ

    @property
    def text(self) -> str:
        """The reason, said to be one of several where it is."""
        return f"for example {self.example}" if self.several else self.example


def clause(reason: str) -> str:
    """The first clause of a reason: its first line up to a semicolon, at most 200 characters."""
    return reason.split("\n")[0].split(";")[0][:200]


def kinds(reasons: pd.Series) -> list[Kind]:
    """Kinds of reasons by their first clauses, the most frequent first."""
    first = reasons.map(clause)
    groups = first.groupby(first.str.replace(_NUMBERS, "#", regex=True), sort=False)
    found = [Kind(str(g.iloc[0]), len(g), g.index, g.nunique() > 1) for _, g in groups]
    return sorted(found, key=lambda kind: -kind.n)
