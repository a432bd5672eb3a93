"""The steps that compute one task: loops, reductions and matrix products between tensors in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from bench.compiled.taskwise.product import Product, product
from bench.compiled.taskwise.terms import (
    FAR,
    NAMES,
    Load,
    Memory,
    Number,
    Term,
    UnsupportedError,
    by_task,
    dense,
    loads,
    strided,
)

FLOATS = (torch.float32, torch.float64)


@dataclass(eq=False)
class Step:
    """What fills ``out``, or a part of it.

    kind: "loop" (the values of a term), "reduce" (``how``, over the term's ``axes``), "turn" (a matrix
    transposed), "product" (added to what is there if ``adds``), "gather", "scatter" or "scatter_add" (along
    the one of ``axes``, by ``index``).
    """

    kind: str
    out: Load
    term: Term | None = None
    how: str = ""
    axes: tuple[int, ...] = ()
    product: Product | None = None
    adds: bool = False
    index: Load | None = None

    def reads(self) -> list[Load]:
        found = [] if self.term is None else list(loads(self.term))
        found += [] if self.product is None else [self.product.left, self.product.right]
        return found + ([] if self.index is None else [self.index])


@dataclass
class Steps:
    """Steps of one of ``n_tasks`` tasks; what the kernel is given, and its results with their shapes."""

    n_tasks: int
    steps: list[Step] = field(default_factory=list)
    given: list[Memory] = field(default_factory=list)
    results: list[tuple[Memory, tuple[int, ...]]] = field(default_factory=list)
    turned: dict[tuple, Load] = field(default_factory=dict)

    def own(self, *terms: Term) -> bool:
        """Whether any of the terms has the tasks' axis; all are looked at."""
        return True in {by_task(term, self.n_tasks) for term in terms}

    def take(self, x: Tensor, own: bool) -> Load:
        """An input like ``x``, which has a row for every task if ``own``."""
        if not x.numel():
            raise UnsupportedError("an empty tensor")
        step = x.stride(0) if own else 0
        memory = Memory(f"given{len(self.given)}", type_of(x), own, "given", x.numel(), step)
        self.given.append(memory)
        strides = (FAR, *x.stride()[1:]) if own else x.stride()
        return Load(memory, torch.empty_strided(x.shape, strides, device="meta"))

    def give(self, term: Term, shape: tuple[int, ...]) -> None:
        """A result: written where it is computed, if that has the right layout."""
        own, name = self.n_tasks > 1, f"result{len(self.results)}"
        if not prod(shape) or (own and shape[:1] != (self.n_tasks,)):
            raise UnsupportedError("a result of all tasks, or an empty one")
        at, length = strided(shape, by_task=own), prod(shape[own:])
        self.own(term)
        if isinstance(term, Load) and _is_whole(term, at) and term.memory.by_task == own:
            memory = term.memory
            memory.kind, memory.name = "result", name
        else:
            memory = Memory(name, term.dtype, own, "result", length)
            self.steps.append(Step("loop", Load(memory, at), term))
        memory.step = length if own else 0
        self.results.append((memory, shape))

    def scratch(self, dtype: torch.dtype, shape: Sequence[int], own: bool) -> Memory:
        return Memory("", dtype, own, "scratch", prod(shape[own:]))

    def store(self, term: Term, shape: Sequence[int], any_order: bool = False) -> Load:
        """A term's values in new memory: dense, in ``any_order`` with that axis last along which they lie."""
        own = self.own(term)
        axes = list(range(int(own), len(shape)))
        long = [axis for axis in axes if shape[axis] > 1]
        if any_order and long:
            near = {axis: sum(load.at.stride(axis) <= 1 for load in loads(term)) for axis in long}
            last = max(long, key=lambda axis: (near[axis], axis))
            axes = [axis for axis in axes if axis != last] + [last]
        out = Load(self.scratch(term.dtype, shape, own), strided(shape, axes, own))
        self.steps.append(Step("loop", out, term))
        return out

    def filled(self, term: Term, shape: Sequence[int], *like: Term) -> Load:
        """New memory with these values; by task also where only one of ``like`` is."""
        own = self.own(term, *like)
        out = Load(self.scratch(term.dtype, shape, own), strided(shape, by_task=own))
        self.steps.append(Step("loop", out, term))
        return out

    def put(self, out: Load, at: Tensor, term: Term) -> None:
        """A term's values in a part of memory."""
        part = Load(out.memory, at)
        self.own(part)
        self.steps.append(Step("loop", part, term))

    def join(self, parts: Sequence[tuple[Term, Sequence[int]]], dim: int, shape: Sequence[int]) -> Load:
        """Terms, with their shapes, side by side along an axis; computed there where that can be."""
        own = self.own(*[term for term, _ in parts])
        if own and dim == 0:
            raise UnsupportedError("tasks joined to tasks")
        memory = self.scratch(parts[0][0].dtype, shape, own)
        out, start = Load(memory, strided(shape, by_task=own)), 0
        rows = prod(shape[own:dim])
        for term, size in parts:
            like = strided(size, by_task=own)
            if rows == 1 and isinstance(term, Load) and _is_whole(term, like) and term.memory.by_task == own:
                term.memory.home = memory, start * prod(shape[dim + 1 :])
            else:
                self.put(out, out.at.narrow(dim, start, size[dim]), term)
            start += size[dim]
        return out

    def reduce(
        self, term: Term, shape: Sequence[int], axes: Sequence[int], how: str, dtype: torch.dtype
    ) -> Load:
        """The sum, or another reduction, over ``axes``, which stay with one value each."""
        own = self.own(term)
        if own and 0 in axes:
            raise UnsupportedError("a sum over tasks")
        if isinstance(term, Number):
            term = self.store(term, shape)
        shape = [1 if axis in axes else size for axis, size in enumerate(shape)]
        out = Load(self.scratch(dtype, shape, own), strided(shape, by_task=own))
        self.steps.append(Step("reduce", out, term, how=how, axes=tuple(axes)))
        return out

    def multiply(self, a: Load, b: Load) -> Load:
        """The matrix product of the last two axes; before these there is none, or the tasks' axis."""
        own = self.own(a, b)
        loops = product(a, b)
        if loops is None:
            b = self._transposed(b, own)
            loops = product(a, b)
        assert loops is not None
        shape = (*a.at.shape[:-1], b.at.shape[-1])
        axes = list(range(int(own), len(shape)))
        order = [*axes[:-2], axes[-1], axes[-2]] if loops.turned else axes
        out = Load(self.scratch(a.dtype, shape, own), strided(shape, order, own))
        self.steps.append(Step("product", out, product=loops))
        return out

    def _transposed(self, x: Load, own: bool) -> Load:
        """The same matrices with their rows side by side; one copy serves all products."""
        *_, high, wide = x.at.shape
        if x.at.stride(-2) != 1:
            return self.store(x, x.at.shape)
        key = (x.memory, x.at.storage_offset(), tuple(x.at.shape), x.at.stride())
        if key not in self.turned:
            own = own and x.at.stride(0) != 0
            memory = self.scratch(x.dtype, (1, high, wide)[1 - own :], own)
            at = strided(x.at.shape, by_task=True) if own else strided((high, wide)).expand(x.at.shape)
            self.turned[key] = Load(memory, at)
            self.steps.append(Step("turn", self.turned[key], x))
        return self.turned[key]

    def add_products(self, one: Load, two: Load) -> Load | None:
        """The sum of two products that nothing else needs: the second is added to the first right away."""
        made = [
            step
            for step in self.steps
            if step.kind == "product" and step.out.memory in (one.memory, two.memory)
        ]
        if one.memory is two.memory or len(made) != 2:
            return None
        first, second = made
        same = all(
            (x.at.shape, x.at.stride(), x.at.storage_offset())
            == (y.at.shape, y.at.stride(), y.at.storage_offset())
            for x, y in ((one, two), (first.out, second.out))
        )
        taken = first.adds or second.adds or one.memory.home or two.memory.home
        if not same or taken or one.memory.by_task != two.memory.by_task:
            return None
        second.out, second.adds = first.out, True
        return Load(first.out.memory, one.at)

    def look_up(
        self, kind: str, term: Term, index: Load, dim: int, shape: Sequence[int], out: Load | None
    ) -> Load:
        """``term`` gathered by ``index`` along an axis, or scattered into ``out``."""
        own = self.own(term, index, *([] if out is None else [out]))
        if own and dim == 0:
            raise UnsupportedError("an index of tasks")
        if term.dtype not in FLOATS or index.dtype is not torch.int64:
            raise UnsupportedError("an index into what is no real number")
        out = out or Load(self.scratch(term.dtype, shape, own), strided(shape, by_task=own))
        self.steps.append(Step(kind, out, term, axes=(dim,), index=index))
        return out


def type_of(x: Tensor) -> torch.dtype:
    """The type of a tensor. Raises `UnsupportedError` where it is none of ours."""
    if x.dtype not in NAMES:
        raise UnsupportedError(str(x.dtype))
    return x.dtype


def _is_whole(load: Load, at: Tensor) -> bool:
    """Whether this is scratch memory in the layout ``at``, all of it and in no other."""
    memory = load.memory
    whole = (
        memory.kind == "scratch" and memory.home is None and memory.length == prod(at.shape[memory.by_task :])
    )
    return whole and dense(load.at, at)
