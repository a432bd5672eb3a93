"""A torch loss as a JAX function: traced to ATen operations, each played by its `jax.numpy` twin."""

from collections.abc import Callable
from operator import getitem
from typing import Any

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from bench.api import Declined
from methods.libraries.jax_operations import operations


def to_jax(function: Callable[..., Tensor], *examples: Tensor) -> Callable[..., Any]:
    """``function`` of tensors like ``examples`` as a JAX function; `Declined` names an unknown operation."""
    graph = make_fx(function)(*(x.detach() for x in examples)).graph
    table: dict[Any, Callable] = {getitem: getitem}
    known = operations()
    for node in graph.nodes:
        if node.op == "get_attr" or (node.op == "call_function" and node.target is not getitem):
            name = getattr(node.target, "overloadpacket", node.target)
            short = str(name).removeprefix("aten.")
            if short not in known:
                raise Declined(f"no translation of torch's operation {name} to JAX")
            table[node.target] = known[short]

    def play(*values):
        given, found = iter(values), {}
        for node in graph.nodes:
            if node.op == "output":
                return map_arg(node.args[0], found.__getitem__)
            if node.op == "placeholder":
                found[node] = next(given)
            else:
                arguments = map_arg((node.args, node.kwargs), found.__getitem__)
                found[node] = table[node.target](*arguments[0], **arguments[1])
        raise AssertionError("a graph without output")

    return play
