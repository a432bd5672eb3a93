"""Traced graphs without what vmap and autograd leave behind, and products in the layout that is wanted."""

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.passes.dialect.common.cse_pass import CSEPass

aten = torch.ops.aten

_PRODUCTS = {aten.bmm.default, aten.mm.default}
_SUMS = {aten.add.Tensor, aten.sub.Tensor}
_IDLE_SHAPES = {aten.view.default, aten.expand.default, aten._unsafe_view.default}
_IDLE_WITH_1 = {aten.mul.Scalar, aten.mul.Tensor, aten.pow.Tensor_Scalar, aten.div.Scalar}


def tidy(graph: GraphModule) -> None:
    """Take out operations that change nothing, and turn a transposed product into the product transposed.

    (A B)' = B' A': a weight's gradient comes out of autograd as the transpose of a product, and copying it
    into place took longer than the product.
    """
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and _idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    CSEPass()(graph)
    for node in list(graph.graph.nodes):
        if _swaps_matrices(node) and _ends_in_product(node.args[0]):
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(_turned(graph, node.args[0]))
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()


def _idle(node: Node) -> bool:
    if not node.args or not isinstance(node.args[0], Node):
        return False
    before, after = (n.meta.get("val") for n in (node.args[0], node))
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return False
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        return False
    if node.target is aten.alias.default or node.target in _IDLE_SHAPES:
        return True
    other = node.args[1] if len(node.args) > 1 else None
    return node.target in _IDLE_WITH_1 and isinstance(other, int | float) and other == 1


def _swaps_matrices(node: Node) -> bool:
    """Whether this transposes matrices, and has the only use of them."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, Node) or len(source.users) > 1:
        return False
    value = source.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return False
    how: Any = node.args[1:]
    if node.target is aten.permute.default:
        return list(how[0]) == _swap(value.ndim)
    if node.target is aten.transpose.int:
        return {d % value.ndim for d in how} == {value.ndim - 2, value.ndim - 1}
    return node.target is aten.t.default


def _ends_in_product(node: Node) -> bool:
    """A matrix product, or a sum of such, without another use."""
    if len(node.users) > 1:
        return False
    if node.target in _PRODUCTS:
        return True
    parts = all(isinstance(part, Node) and _ends_in_product(part) for part in node.args)
    return parts and node.target in _SUMS and not node.kwargs


def _turned(graph: GraphModule, node: Node) -> Node:
    """A node for the transpose of what `_ends_in_product` accepts."""
    operation: Any = node.target
    parts: Any = node.args
    if operation in _SUMS:
        arguments = tuple(_turned(graph, part) for part in parts)
    else:
        arguments = tuple(_permuted(graph, matrix) for matrix in reversed(parts))
    new = graph.graph.call_function(operation, arguments)
    value = node.meta["val"]
    new.meta["val"] = value.permute(_swap(value.ndim)).contiguous()
    return new


def _permuted(graph: GraphModule, matrix: Node) -> Node:
    value = matrix.meta["val"]
    new = graph.graph.call_function(aten.permute.default, (matrix, _swap(value.ndim)))
    new.meta["val"] = value.permute(_swap(value.ndim))
    return new


def _swap(ndim: int) -> list[int]:
    return [*range(ndim - 2), ndim - 1, ndim - 2]
