"""What is computed of one task: terms over tensors in memory, read at affine places.

A tensor of the graph is a term: a tensor in memory, a number, or an operation on terms of the same shape. A
view of a term is the term of the views of its tensors, so that nothing moves until a loop needs it. Layouts
are torch's own: meta tensors, whose tasks' axis has the stride `FAR`, which no view can merge with another.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 1 << 40

NAMES = {torch.float32: "float", torch.float64: "double", torch.bool: "bool", torch.int64: "int64_t"}


class UnsupportedError(Exception):
    """A graph that is not for this lowering: the operation, type or layout in the way."""


@dataclass(eq=False)
class Memory:
    """Where a tensor is: of one task, or (not ``by_task``) the same for all.

    kind: "given", "result" or "scratch"; the last is the task's own while it is at work.
    length: numbers in it. step: numbers from a task's to the next one's, 0 in scratch.
    home: the memory that it is a part of, and where in it. place: its first byte in scratch.
    """

    name: str
    dtype: torch.dtype
    by_task: bool
    kind: str
    length: int
    step: int = 0
    home: "tuple[Memory, int] | None" = None
    place: int = 0

    def root(self) -> "tuple[Memory, int]":
        """The memory that this one is in, which is in no other, and where."""
        if self.home is None:
            return self, 0
        root, start = self.home[0].root()
        return root, start + self.home[1]


@dataclass(frozen=True, eq=False)
class Load:
    """A tensor in memory; ``at`` is a meta tensor of its layout."""

    memory: Memory
    at: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.memory.dtype


@dataclass(frozen=True, eq=False)
class Number:
    value: bool | int | float
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Op:
    """``text`` (C++, arguments by number) of terms, which are converted to ``among`` before.

    depth: of operations within operations.
    """

    text: str
    args: "tuple[Term, ...]"
    dtype: torch.dtype
    among: tuple[torch.dtype, ...]
    depth: int


Term = Load | Number | Op


def loads(term: Term) -> Iterator[Load]:
    """The tensors in memory that a term reads, as often as it does."""
    if isinstance(term, Load):
        yield term
    elif isinstance(term, Op):
        for part in term.args:
            yield from loads(part)


def over(term: Term, view: Callable[[Tensor], Tensor]) -> Term:
    """The view of a term. Raises RuntimeError where it has none without being stored."""
    done: dict[int, Term] = {}

    def turned(part: Term) -> Term:
        if id(part) not in done:
            if isinstance(part, Load):
                done[id(part)] = Load(part.memory, view(part.at))
            elif isinstance(part, Op):
                args = tuple(turned(arg) for arg in part.args)
                done[id(part)] = Op(part.text, args, part.dtype, part.among, part.depth)
            else:
                done[id(part)] = part
        return done[id(part)]

    return turned(term)


def strided(shape: Sequence[int], order: Sequence[int] | None = None, by_task: bool = False) -> Tensor:
    """A dense layout: axes outermost first in the ``order`` given, without the tasks' axis."""
    axes = list(range(int(by_task), len(shape))) if order is None else order
    strides, size = [FAR] * len(shape), 1
    for axis in reversed(axes):
        strides[axis], size = size, size * shape[axis]
    return torch.empty_strided(tuple(shape), tuple(strides), device="meta")


def by_task(term: Term, n_tasks: int) -> bool:
    """Whether a term has the tasks' axis, as its first. Raises `UnsupportedError` where it is elsewhere."""
    found = False
    for load in loads(term):
        strides = load.at.stride()
        here = bool(strides) and strides[0] == FAR
        others = zip(load.at.shape[1:], strides[1:], strict=True)
        moved = any(size > 1 and stride >= FAR for size, stride in others) or load.at.storage_offset() >= FAR
        if moved or load.memory.by_task != here or (here and load.at.shape[0] != n_tasks):
            raise UnsupportedError("the tasks' axis moves, or a part of it is taken")
        found |= here
    return found


def dense(at: Tensor, like: Tensor) -> bool:
    """Whether a layout is the one of ``like``, from the first number on."""
    pairs = zip(at.shape, at.stride(), like.stride(), strict=True)
    return at.storage_offset() == 0 and all(size == 1 or one == two for size, one, two in pairs)
