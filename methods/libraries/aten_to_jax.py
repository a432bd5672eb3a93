"""A torch loss as a JAX function: traced to ATen operations, each played by its `jax.numpy` twin."""

from collections.abc import Callable
from inspect import signature
from operator import getitem
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from bench.api import Declined
from methods.libraries.jax_operations import operations
from methods.libraries.loss_graph import nodes

REARRANGING = ("aten.split_with_sizes", "aten.view", "aten.t")


class Translation:
    """``function`` of tensors like ``examples``, of arrays: of all of them, or of the `leaves` of the first.

    Leaves are the first array cut and reshaped as the function does it: the layers' weights, laid out as
    they are multiplied. Loops that carry leaves do not cut and join the flat vector in every round.
    `Declined` names an operation, or an argument of one, that has no translation, and functions that look at
    the value of a tensor or switch autograd off: an array of JAX is differentiated throughout.
    """

    def __init__(self, function: Callable[..., Tensor], *examples: Tensor):
        *self._nodes, output = nodes(function, [x.detach() for x in examples])
        self._output, known = output.args[0], operations()
        self._inputs = [node for node in self._nodes if node.op == "placeholder"]
        self._steps = {n: _step(n, known) for n in self._nodes if n.op in ("call_function", "get_attr")}
        moved = {self._inputs[0]}
        for node in self._steps:
            packet = getattr(node.target, "overloadpacket", None)
            if (node.target is getitem or str(packet) in REARRANGING) and moved.issuperset(
                node.all_input_nodes
            ):
                moved.add(node)
        self._leaves = [n for n in self._nodes if n in moved and not moved.issuperset(n.users)]

    def __call__(self, *values: Any) -> Any:
        return self._play(dict(zip(self._inputs, values, strict=True)), self._output)

    def leaves(self, first: Any) -> list[Any]:
        return list(self._play({self._inputs[0]: first}, self._leaves))

    def of_leaves(self, leaves: list[Any], *others: Any) -> Any:
        given = zip([*self._leaves, *self._inputs[1:]], [*leaves, *others], strict=True)
        return self._play(dict(given), self._output)

    def _play(self, found: dict[Node, Any], wanted: Any) -> Any:
        for node, (function, arguments) in self._steps.items():
            if node not in found and all(n in found for n in node.all_input_nodes):
                found[node] = function(**map_arg(arguments, found.__getitem__))
        return map_arg(wanted, found.__getitem__)


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
