"""The baseline file of `metabench gate`: what every cell of a study cost, and how right it was, as accepted.

    {"schema": 1, "study": ..., "environment": {...}, "cells": {"<label> [<id>]": {...}, ...}}

JSON with sorted keys and exact floats, one value a line, so that a diff of two baselines is their difference.
A cell is known by its id; its label is for people.
"""

import json
import platform
import re
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.disk import failed
from bench.errors import UsageError
from bench.run import environment

SCHEMA = 1
Value = int | float | None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Ratio(_Part):
    """Median ratio of two times over ``rounds`` pairs, and the ends of its 95 % interval."""

    median: float
    low: float
    high: float
    rounds: int


class Entry(_Part):
    """One cell: its metrics by name (see `bench.gate`), null where there is none; its time where known."""

    status: str
    dtype: str
    metrics: dict[str, Value]
    time: Ratio | None = None


class Environment(_Part):
    """Where the baseline was taken."""

    torch: str
    machine: str
    cpu: str

    @classmethod
    def here(cls) -> "Environment":
        return cls(torch=torch.__version__, machine=platform.machine(), cpu=environment()["cpu"])

    def counts_alike(self, other: "Environment") -> bool:
        """Whether the same program runs the same operators in both: same torch release and architecture."""
        release, others = (e.torch.partition("+")[0] for e in (self, other))  # without +cpu, +cu128
        return release == others and self.machine == other.machine


class Baseline(_Part):
    """All entries of one study, by name."""

    format: Literal[1] = Field(alias="schema")
    study: str
    environment: Environment
    cells: dict[str, Entry]

    def by_id(self) -> dict[str, tuple[str, Entry]]:
        """Cell id -> name and entry."""
        return {id_of(name): (name, entry) for name, entry in self.cells.items()}

    def content(self) -> bytes:
        """The file."""
        table = self.model_dump(by_alias=True)
        return (json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def name_of(label: str, cell_id: str) -> str:
    """The name of an entry."""
    return f"{label} [{cell_id}]"


def id_of(name: str) -> str:
    """The cell id in the name of an entry; the name itself where it holds none, which matches no cell."""
    found = re.search(r" \[([0-9a-f]{16})\]$", name)
    return found[1] if found else name


def read(path: Path) -> Baseline:
    """The baseline in a file. `UsageError` where there is none, or none that this version can read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            f"there is no baseline {path}; `metabench gate --update` writes it, "
            "`--baseline FILE` names another"
        ) from None
    except OSError as error:
        raise failed("read", path, error) from error
    try:
        return Baseline.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} is no baseline of schema {SCHEMA}: {where + ': ' if where else ''}{first['msg']}. "
            "Restore it from version control, or delete it and write it anew with `metabench gate --update`"
        ) from error
