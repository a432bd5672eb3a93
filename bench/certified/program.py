"""A function of tensors as the list of ATen operations that one run of it executes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class NotCertifiedError(Exception):
    """Why exact arithmetic gives no result of a program, or none that can be told.

    ``kind``: "hidden numbers", "unsupported operator", "baked branch", "undecided kink", "blown-up radius",
    "out of time", "too large" or "failed"; the message says what and where.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind = kind


@dataclass(frozen=True)
class Value:
    """One tensor of a program: its number, and what cannot change when the arithmetic does."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    storage: int  # values with the same one may share memory

    def __repr__(self) -> str:
        return f"%{self.number}"


@dataclass(frozen=True)
class Node:
    """One operation. ``args`` and ``kwargs`` are as it was called, with a `Value` for every tensor.

    ``results`` is a `Value`, or a nest of them. A *branch* gives Python a number instead: ``baked``, by which
    the run went on. ``where`` is the line of Python that asked for the operation, ``stage`` how far the run
    had come.
    """

    number: int
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Any
    baked: Any
    where: str
    stage: str

    @property
    def name(self) -> str:
        """As in ``aten.mm``."""
        return str(getattr(self.target, "overloadpacket", self.target))

    @property
    def writes(self) -> Value | None:
        """The tensor that it changes in place, if it does."""
        changed = self.target._schema.is_mutable and self.args and isinstance(self.args[0], Value)
        return self.args[0] if changed else None

    def __str__(self) -> str:
        stage = f", {self.stage}" if self.stage else ""
        return f"{self.name} (node {self.number}{stage}; {self.where})"


@dataclass(frozen=True)
class Program:
    """``nodes`` in order; ``inputs`` are given at each run, ``constants`` are the same at every one."""

    inputs: tuple[Value, ...]
    constants: dict[Value, Tensor]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    written: frozenset[int] = field(default_factory=frozenset)  # storages that some node changes

    def pruned(self) -> "Program":
        """Without what neither the outputs nor a branch depends on."""
        alive = set(self.outputs)
        memory = {value.storage for value in alive}
        kept = []
        for node in reversed(self.nodes):
            changed = node.writes
            used = any(value in alive for value in values(node.results))
            if node.baked is not None or used or (changed is not None and changed.storage in memory):
                kept.append(node)
                needed = [*values(node.args), *values(node.kwargs)]
                alive.update(needed)
                memory.update(value.storage for value in needed)
        constants = {value: x for value, x in self.constants.items() if value in alive}
        return Program(self.inputs, constants, tuple(reversed(kept)), self.outputs, self.written)


def values(tree: Any) -> list[Value]:
    """All values in nested tuples, lists and dicts."""
    if isinstance(tree, Value):
        return [tree]
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    return [value for part in tree for value in values(part)] if isinstance(tree, tuple | list) else []


def replace(tree: Any, leaf: type, by: Callable[[Any], Any]) -> Any:
    """The same nest with every ``leaf`` replaced."""
    if isinstance(tree, leaf):
        return by(tree)
    if isinstance(tree, dict):
        return {key: replace(part, leaf, by) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(replace(part, leaf, by) for part in tree)
    return tree


def last_uses(program: Program) -> list[list[Value]]:
    """For every node, the values that nobody asks for after it."""
    seen, lists = set(program.outputs), []
    for node in reversed(program.nodes):
        mine = dict.fromkeys([*values(node.args), *values(node.kwargs), *values(node.results)])
        lists.append([value for value in mine if value not in seen])
        seen.update(mine)
    return lists[::-1]
