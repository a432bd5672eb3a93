"""Playing a program in an arithmetic of choice."""

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.certified import layout, reductions  # noqa: F401  their operations register themselves
from bench.certified.arithmetic import Arithmetic, Array, LostError, UndecidedError
from bench.certified.operators import OPERATORS, Context, name_of
from bench.certified.program import Node, NotCertifiedError, Program, Value, last_uses, replace, values

# Where the numbers of the result lie, not what they are.
_OF_MEMORY = {
    "dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit", "half_to_float",
}  # fmt: skip


class BranchError(NotCertifiedError):
    """Exact arithmetic has ``exact`` where the run went on with another answer, after those in ``before``.

    ``exact`` is None for a number that is not known exactly.
    """

    def __init__(self, node: Node, exact: Any, before: list[Any]):
        got = "another number" if exact is None else repr(exact)
        super().__init__(
            "baked branch", f"Python went on with {node.baked!r} from {node}, exact arithmetic has {got}"
        )
        self.node, self.exact, self.before = node, exact, before


class UndecidedAt(Exception):
    """More bits may decide it; ``lost`` where not even the size of a number is known."""

    def __init__(self, node: Node, message: str, lost: bool):
        super().__init__(f"{node}: {message}")
        self.lost = lost


class Player:
    """``program`` bound to the operations that play it. Raises `NotCertifiedError` where one is missing."""

    def __init__(self, program: Program):
        self.program = program
        self._steps = [_bound(node) for node in program.nodes]
        self._over = last_uses(program)

    def __call__(
        self,
        arithmetic: Arithmetic,
        inputs: Iterable[Tensor | Array],
        until: float = np.inf,
        watch: Callable[[Node, list[Array]], None] | None = None,
    ) -> list[Array]:
        """The outputs for these inputs. ``watch`` sees the results of every node.

        Raises `UndecidedAt` where the arithmetic cannot go on, `NotCertifiedError` where a branch of the run
        is not the program's own, or at the time ``until`` (`time.monotonic`).
        """
        pairs = [*zip(self.program.inputs, inputs, strict=True), *self.program.constants.items()]
        found = {value: _array(arithmetic, x) for value, x in pairs}
        for node, (function, arguments), over in zip(
            self.program.nodes, self._steps, self._over, strict=True
        ):
            if time.monotonic() > until:
                raise NotCertifiedError("out of time", f"it had come to {node}")
            results = self._play(arithmetic, node, function, arguments, found)
            if watch is not None:
                watch(node, results)
            for value in over:
                del found[value]
        return [found[value] for value in self.program.outputs]

    def _play(
        self,
        arithmetic: Arithmetic,
        node: Node,
        function: Callable,
        arguments: dict[str, Any],
        found: dict[Value, Array],
    ) -> list[Array]:
        context = Context(arithmetic, _is_real(node))
        try:
            result = function(context, **replace(arguments, Value, found.__getitem__))
            if node.baked is not None:
                self._verify(arithmetic, node, result)
                return []
        except (UndecidedError, LostError) as error:
            raise UndecidedAt(node, str(error), isinstance(error, LostError)) from error
        except NotImplementedError as error:
            raise NotCertifiedError("unsupported operator", f"{error} in {node}") from error
        if (changed := node.writes) is not None:
            found[changed][...] = result
            return [found[changed]]
        if isinstance(node.results, Value):
            result = (result,)
        made = values(node.results)
        for value, x in zip(made, result, strict=True):
            array = np.asarray(x, arithmetic.numbers if value.dtype.is_floating_point else None)
            assert array.shape == value.shape, f"{node} gave {array.shape}, not {value.shape}"
            found[value] = self._owned(value, array, node, found)
        return [found[value] for value in made]

    def _verify(self, arithmetic: Arithmetic, node: Node, result: Any) -> None:
        """A branch that the run took must be the one that the program takes."""
        number = result.item() if isinstance(result, np.ndarray) else result
        if isinstance(number, bool | int):
            exact = number
        else:
            exact = node.baked if arithmetic.is_number(number, node.baked) else None
        if exact != node.baked:
            earlier = self.program.nodes[: self.program.nodes.index(node)]
            raise BranchError(node, exact, [n.baked for n in earlier if n.baked is not None])

    def _owned(self, value: Value, array: Array, node: Node, found: dict[Value, Array]) -> Array:
        """``array`` with the memory that changes in place rely on: shared where torch shares it."""
        written = self.program.written
        for other in values((node.args, node.kwargs)) if written else ():
            if value.storage not in written and other.storage not in written:
                continue
            shares = np.may_share_memory(array, found[other])
            if value.storage != other.storage and shares:
                return array.copy()
            if value.storage == other.storage and not shares and array.size:
                raise NotCertifiedError(
                    "unsupported operator", f"a change in place of what is seen by {node}"
                )
        return array


def _bound(node: Node) -> tuple[Callable, dict[str, Any]]:
    """What plays a node, and its arguments by their names in the operation's schema."""
    name = name_of(node.target)
    if name is None or any(value.dtype.is_complex for value in values(node.results)):
        raise NotCertifiedError("unsupported operator", str(node))
    function = OPERATORS[name]
    schema = node.target._schema.arguments
    given = dict(zip([a.name for a in schema], node.args, strict=False)) | node.kwargs
    taken = _parameters(function)
    for argument in schema:
        key = argument.name
        if key not in given or key in taken:
            continue
        if key not in _OF_MEMORY and given[key] != argument.default_value:
            raise NotCertifiedError("unsupported operator", f"the argument {key} of {node}")
        del given[key]
    return function, given


@lru_cache
def _parameters(function: Callable) -> frozenset[str]:
    return frozenset(signature(function).parameters)


def _array(arithmetic: Arithmetic, x: Tensor | Array) -> Array:
    if isinstance(x, np.ndarray):
        return x
    if x.is_floating_point():
        return arithmetic.of(x.detach().cpu().double().numpy()).copy()
    return x.cpu().numpy().astype(bool if x.dtype == torch.bool else np.int64)


def _is_real(node: Node) -> bool:
    made = [node.writes] if node.writes is not None else values(node.results)
    if made:
        return made[0].dtype.is_floating_point
    taken = values(node.args)
    return bool(taken) and taken[0].dtype.is_floating_point
