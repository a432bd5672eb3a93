"""A graph of ATen operations as the steps of one task."""

from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from bench.compiled.taskwise import operations as known
from bench.compiled.taskwise.steps import FLOATS, Steps, type_of
from bench.compiled.taskwise.terms import NAMES, Load, Number, Op, Term, UnsupportedError, loads, over

aten = torch.ops.aten

DEEPEST = 64  # operations within operations, before one is stored


def plan(graph: GraphModule, inputs: Sequence[Tensor], shared: Sequence[bool], n_tasks: int) -> Steps:
    """The steps of ``graph``. Raises `UnsupportedError`.

    Inputs whose first axis is as long as there are tasks have it for them, except the ``shared`` ones: what
    does not mix rows may be computed row by row, whatever the rows are.
    """
    planner = _Planner(n_tasks)
    nodes = list(graph.graph.nodes)
    places = [node for node in nodes if node.op == "placeholder"]
    for node, x, alone in zip(places, inputs, shared, strict=True):
        own = n_tasks > 1 and not alone and x.ndim > 0 and len(x) == n_tasks
        planner.terms[node] = planner.steps.take(x, own)
    for node in nodes:
        if node.op == "call_function":
            planner.terms[node] = planner.term(node)
        elif node.op == "output":
            for result in node.args[0]:
                planner.steps.give(planner.terms[result], tuple(result.meta["val"].shape))
        elif node.op != "placeholder":
            raise UnsupportedError(f"a {node.op}")
    return planner.steps


class _Planner:
    """Terms of nodes, and the steps that have been found necessary for them."""

    def __init__(self, n_tasks: int):
        self.steps = Steps(n_tasks)
        self.terms: dict[Node, Any] = {}
        self._others: dict[Any, Callable[..., Term]] = {
            aten.cat.default: self._cat,
            aten.constant_pad_nd.default: self._pad,
            aten.slice_scatter.default: self._slice_scatter,
            aten.select_scatter.default: self._select_scatter,
            aten.gather.default: self._gather,
            aten.scatter_add.default: self._scatter_add,
            aten.scatter.value: self._scatter,
        }

    def term(self, node: Node) -> Any:
        """What the node stands for: a term, or a list of them."""
        target, args = _functional(node), cast("Any", node.args)
        if target in known.VIEWS:
            return self._view(node, lambda x: target(x, *args[1:], **node.kwargs))
        if target in known.SPLITS:
            parts = range(len(node.meta["val"]))
            return [self._view(node, lambda x, i=i: target(x, *args[1:], **node.kwargs)[i]) for i in parts]
        if target is getitem:
            return self.terms[args[0]][args[1]]
        if target in known.SAME:
            return self.terms[args[0]]
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not value.numel():
            raise UnsupportedError(f"{target}, or an empty tensor")
        type_of(value)
        if target in known.NUMBERS:
            return _number(args[known.NUMBERS[target]], value.dtype)
        if target in known.POINTWISE:
            return self._pointwise(node, value)
        if target in known.PRODUCTS:
            return self._product(node, value)
        if target in known.REDUCTIONS:
            return self._reduction(value, known.REDUCTIONS[target], *args, **node.kwargs)
        if target in self._others:
            return self._others[target](value, *args, **node.kwargs)
        raise UnsupportedError(str(target))

    def _view(self, node: Node, view: Callable[[Tensor], Tensor]) -> Term:
        source: Any = node.args[0]
        try:
            return over(self.terms[source], view)
        except RuntimeError:  # torch: such strides have no such view
            self.terms[source] = self.steps.store(self.terms[source], source.meta["val"].shape)
        try:
            return over(self.terms[source], view)
        except RuntimeError as error:
            raise UnsupportedError(str(error)) from error

    def _pointwise(self, node: Node, value: Tensor) -> Term:
        described = known.described(node, _functional(node))
        if described is None:
            raise UnsupportedError(f"{node.target} with such arguments")
        text, args, among = described
        if not set(among) <= set(NAMES):
            raise UnsupportedError(str(among))
        wide = {
            arg: self.terms[arg] if arg.meta["val"].shape == value.shape
            else over(self.terms[arg], lambda x: x.expand(value.shape))
            for arg in args if isinstance(arg, Node)
        }  # fmt: skip
        terms = tuple(
            wide[a] if isinstance(a, Node) else _number(a, t) for a, t in zip(args, among, strict=True)
        )
        depth = 1 + max((term.depth for term in terms if isinstance(term, Op)), default=0)
        term = Op(text, terms, value.dtype, among, depth)
        if not any(True for _ in loads(term)):
            return term
        if node.target is aten.add.Tensor and all(_uses(arg) == 1 for arg in wide) and len(wide) == 2:
            one, two = terms
            both = (
                self.steps.add_products(one, two) if isinstance(one, Load) and isinstance(two, Load) else None
            )
            if both is not None:
                return both
        often = _uses(node) > 1 or _spreads(node, value.numel())
        if depth > DEEPEST or (often and node.target not in known.CHEAP):
            return self.steps.store(term, value.shape, any_order=True)
        return term

    def _product(self, node: Node, value: Tensor) -> Term:
        left, right = cast("tuple[Node, Node]", node.args)
        a, b = self._stored(left), self._stored(right)
        own = [self.steps.own(x) for x in (a, b)]
        if value.dtype not in FLOATS:
            raise UnsupportedError(f"a product in {value.dtype}")
        if node.target is aten.mm.default and own == [True, False]:  # a row of the matrix is a task's
            rows = Load(a.memory, a.at.unsqueeze(1))
            same = Load(b.memory, b.at.unsqueeze(0).expand(self.steps.n_tasks, *b.at.shape))
            return over(self.steps.multiply(rows, same), lambda x: x.squeeze(1))
        if (value.ndim == 2 and any(own)) or (value.ndim == 3 and not any(own) and len(value) > 1):
            raise UnsupportedError("products of several matrices of a task, or of all tasks")
        return self.steps.multiply(a, b)

    def _reduction(
        self,
        value: Tensor,
        how: str,
        source: Node,
        dims: Sequence[int] | None = None,
        keepdim: bool = False,
        **_: Any,
    ) -> Term:
        x = source.meta["val"]
        if not x.numel() or (how != "sum" and value.dtype not in FLOATS):
            raise UnsupportedError(f"{how} in {value.dtype}, or of nothing")
        axes = sorted({d % x.ndim for d in dims or range(x.ndim)}) if x.ndim else []
        out = self.steps.reduce(self.terms[source], x.shape, axes, how, value.dtype)
        return out if keepdim else over(out, lambda y: y.squeeze(axes))

    def _cat(self, value: Tensor, parts: Sequence[Node], dim: int = 0) -> Load:
        full = [part for part in parts if part.meta["val"].numel()]
        if any(part.meta["val"].dtype is not value.dtype for part in full):
            raise UnsupportedError("different types side by side")
        terms = [(self.terms[part], tuple(part.meta["val"].shape)) for part in full]
        return self.steps.join(terms, dim % value.ndim, value.shape)

    def _pad(self, value: Tensor, source: Node, pads: Sequence[int], fill: float = 0) -> Load:
        term, fixed = self.terms[source], _number(fill, value.dtype)
        out = self.steps.filled(fixed, value.shape, term)
        at, size = out.at, list(source.meta["val"].shape)
        for back, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True)):
            axis = value.ndim - 1 - back  # a negative pad takes away
            cut, kept = max(-before, 0), size[axis] + min(before, 0) + min(after, 0)
            term = over(term, lambda x, axis=axis, cut=cut, kept=kept: x.narrow(axis, cut, kept))
            at = at.narrow(axis, max(before, 0), kept)
        self.steps.put(out, at, term)
        return out

    def _slice_scatter(self, value: Tensor, base: Node, source: Node, *where: Any, **named: Any) -> Load:
        return self._put(value, base, source, lambda x: aten.slice.Tensor(x, *where, **named))

    def _select_scatter(self, value: Tensor, base: Node, source: Node, dim: int, index: int) -> Load:
        return self._put(value, base, source, lambda x: x.select(dim, index))

    def _put(self, value: Tensor, base: Node, source: Node, view: Callable[[Tensor], Tensor]) -> Load:
        """A copy of ``base`` with ``source`` in the place that a view names."""
        out = self.steps.filled(self.terms[base], value.shape, self.terms[source])
        self.steps.put(out, view(out.at), self.terms[source])
        return out

    def _gather(self, value: Tensor, source: Node, dim: int, index: Node, **_: Any) -> Load:
        term, places = self._stored(source), self._stored(index)
        return self.steps.look_up("gather", term, places, dim % value.ndim, value.shape, None)

    def _scatter_add(self, value: Tensor, base: Node, dim: int, index: Node, source: Node) -> Load:
        places, term = self._stored(index), self.terms[source]
        start = self.steps.filled(self.terms[base], value.shape, places, term)
        term = over(term, lambda x: x[tuple(slice(0, size) for size in places.at.shape)])
        return self.steps.look_up("scatter_add", term, places, dim % value.ndim, value.shape, start)

    def _scatter(self, value: Tensor, base: Node, dim: int, index: Node, fill: float) -> Load:
        places = self._stored(index)
        start = self.steps.filled(self.terms[base], value.shape, places)
        fixed = _number(fill, value.dtype)
        return self.steps.look_up("scatter", fixed, places, dim % value.ndim, value.shape, start)

    def _stored(self, node: Node) -> Load:
        """The node's tensor in memory, in any layout."""
        term = self.terms[node]
        if not isinstance(term, Load):
            term = self.terms[node] = self.steps.store(term, node.meta["val"].shape, any_order=True)
        return term


def _number(value: Any, dtype: torch.dtype) -> Number:
    if not isinstance(value, bool | int | float):
        raise UnsupportedError(f"{value}, where a number is to be")
    return Number(value, dtype)


def _functional(node: Node) -> Any:
    """The operation; of one in place the other form, where its first argument has no use but this."""
    target: Any = node.target
    if target not in known.FUNCTIONAL:
        return target
    (first, *_), other = node.args, known.FUNCTIONAL[target]
    own = isinstance(first, Node) and len(first.users) == 1 and first.op == "call_function"
    if not own or (other not in known.VIEWS and _passes(cast("Node", first))):
        raise UnsupportedError(f"{target} of what others see")
    return other


def _passes(node: Node) -> bool:
    target: Any = node.target
    target = known.FUNCTIONAL.get(target, target)
    return target in known.VIEWS | known.SPLITS | known.SAME or target is getitem


def _uses(node: Node) -> int:
    """How many nodes read this one's values, through views too."""
    return sum(_uses(user) if _passes(user) else 1 for user in node.users)


def _spreads(node: Node, size: int) -> bool:
    """Whether the values are broadcast to more by what reads them."""
    for user in node.users:
        value = user.meta.get("val")
        wide = isinstance(value, Tensor) and value.numel() > size
        if (wide and (user.target in known.POINTWISE or _passes(user))) or (
            _passes(user) and _spreads(user, size)
        ):
            return True
    return False
