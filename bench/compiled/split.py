"""A graph in two: what stays the same from call to call, computed once, and the rest."""

from collections.abc import Sequence
from operator import getitem

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

# Cheaper to do again than to keep: they move no data, make it from nothing, or compare with a number.
_CHEAP = {
    getitem, aten.le.Scalar, aten.lt.Scalar, aten.ge.Scalar, aten.gt.Scalar, aten.eq.Scalar, aten.ne.Scalar,
    aten.view.default, aten.expand.default, aten.permute.default, aten.transpose.int, aten.t.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.slice.Tensor,
    aten.select.int, aten.alias.default, aten.split_with_sizes.default, aten.full.default,
    aten.scalar_tensor.default, aten.unfold.default,
}  # fmt: skip


def split(graph: GraphModule, n_fixed: int) -> tuple[GraphModule, GraphModule] | None:
    """The part of ``graph`` that depends on its first ``n_fixed`` inputs alone, and the rest.

    The first takes those inputs and returns what the rest needs of it; the rest takes all inputs, then that.
    None where there is nothing to compute once.
    """
    nodes = list(graph.graph.nodes)
    places = [node for node in nodes if node.op == "placeholder"]
    fixed = set(places[:n_fixed])
    for node in nodes:
        if node.op == "call_function" and all(n in fixed for n in node.all_input_nodes):
            fixed.add(node)
    kept = _frontier(nodes, fixed)
    if not kept:
        return None
    first, rest = Graph(), Graph()
    here = {node: first.node_copy(node) for node in places[:n_fixed]}
    for node in nodes:
        if node in fixed and node.op != "placeholder":
            here[node] = first.node_copy(node, here.__getitem__)
    first.output(tuple(here[node] for node in kept))
    there = {node: rest.node_copy(node) for node in places}
    for node in kept:
        there[node] = rest.placeholder(f"kept_{node.name}")
        there[node].meta = node.meta
    for node in nodes:
        if node.op != "placeholder" and node not in there:
            there[node] = rest.node_copy(node, there.__getitem__)
    for part in (first, rest):
        part.eliminate_dead_code()
    return GraphModule(graph, first), GraphModule(graph, rest)


def _frontier(nodes: Sequence[Node], fixed: set[Node]) -> list[Node]:
    """The fixed nodes whose results the rest has to be given."""
    kept: dict[Node, None] = {}

    def need(node: Node) -> None:
        if node not in fixed or node.op == "placeholder":
            return
        if node.target in _CHEAP or not isinstance(node.meta.get("val"), torch.Tensor):
            for source in node.all_input_nodes:
                need(source)
        elif node.op == "call_function":
            kept[node] = None

    for node in nodes:
        if node not in fixed:
            for source in node.all_input_nodes:
                need(source)
    return list(kept)
