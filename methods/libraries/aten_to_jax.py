"""A torch loss as a JAX function: traced to ATen operations, each played by its `jax.numpy` twin."""

from collections.abc import Callable
from inspect import signature
from operator import getitem
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from bench.api import Declined
from methods.libraries.jax_operations import operations


def to_jax(function: Callable[..., Tensor], *examples: Tensor) -> Callable[..., Any]:
    """``function`` of tensors like ``examples`` as a JAX function.

    `Declined` names an operation, or an argument of one, that has no translation.
    """
    graph = make_fx(function)(*(x.detach() for x in examples)).graph
    known = operations()
    steps = {node: _step(node, known) for node in graph.nodes if node.op in ("call_function", "get_attr")}

    def play(*values):
        given, found = iter(values), {}
        for node in graph.nodes:
            if node.op == "output":
                return map_arg(node.args[0], found.__getitem__)
            if node.op == "placeholder":
                found[node] = next(given)
            else:
                function, arguments = steps[node]
                found[node] = function(**map_arg(arguments, found.__getitem__))
        raise AssertionError("a graph without output")

    return play


def _step(node: Node, known: dict[str, Callable]) -> tuple[Callable, dict[str, Any]]:
    """What plays one node, and its arguments by their names in the operation's schema."""
    if node.target is getitem:
        return lambda a, b: a[b], dict(zip("ab", node.args, strict=True))
    operation: Any = node.target
    name = getattr(operation, "overloadpacket", operation)
    function = known.get(str(name).removeprefix("aten."))
    if function is None:
        raise Declined(f"no translation of torch's operation {name} to JAX")
    names = [argument.name for argument in operation._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    taken = signature(function).parameters
    for argument in operation._schema.arguments:
        key = argument.name
        if key in given and key not in taken and given.pop(key) != argument.default_value:
            raise Declined(f"no translation of the argument {key} of torch's operation {name} to JAX")
    return function, given
