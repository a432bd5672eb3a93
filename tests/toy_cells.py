"""Cells of the toy problem and methods, for the tests of the passes."""

import importlib
import sys
from types import ModuleType

import pytest

from bench import inputs, registry, run
from bench.cells import Cell, cell_id


def lend_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered from here on is forgotten at the end of the test."""
    registry.load_plugins()
    classes = {kind: dict(names) for kind, names in registry._classes.items()}
    monkeypatch.setattr(registry, "_classes", classes)
    monkeypatch.setattr(registry, "_names", dict(registry._names))


def register_toys(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`tests.toy_methods`, registered and with its counters at zero, for one test."""
    lend_registry(monkeypatch)
    monkeypatch.delitem(sys.modules, "tests.toy_methods", raising=False)
    for memo in (inputs.draw, run._maml, run._implicit):
        memo.cache_clear()
    return importlib.import_module("tests.toy_methods")


def cell(method: str | dict = "good", problem: str | dict = "toy", **changes) -> Cell:
    """A cell of the toy method, or of the method that a table describes."""
    table = {"name": "toy-method", "behaviour": method} if isinstance(method, str) else method
    description = {
        "problem": registry.describe(registry.build("problem", problem)),
        "method": registry.describe(registry.build("method", table)),
        "seed": 0, "n_tasks": 3, "split": "train", "dtype": "float64", "device": "cpu", "threads": 1,
        "passes": ["accuracy"], "repeats": 2, "contract": 1, **changes,
    }  # fmt: skip
    return Cell(cell_id(description), description)
