"""A function of tensors as one graph of ATen operations, all its derivatives included."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from bench.compiled.convolution import AsMatrixProducts
from bench.compiled.lower import decompositions
from bench.compiled.tidy import tidy

aten = torch.ops.aten

MOST_TERMS = 256  # that are summed in one go where several dimensions are
MOST_IN_ROW = 4096  # the same along one dimension, which is summed in as many lanes as a register has


class AsksForValueError(Exception):
    """A function wants a number where a graph has none."""

    def __init__(self) -> None:
        super().__init__(
            "it asks for the value of a tensor (`.item()`, `float()`, `if`), which a graph has not"
        )


def trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[GraphModule, list[int]]:
    """The graph of ``function`` at tensors like ``inputs``, and the numbers of the inputs that it uses.

    Raises `AsksForValueError` where ``function`` asks for a value, and whatever it raises on tensors without.
    """
    table = {**decompositions(), **_OURS}
    with torch.no_grad(), AsMatrixProducts():
        try:
            graph = make_fx(
                function, tracing_mode="fake", decomposition_table=table, _allow_non_fake_inputs=True
            )(*inputs)
        except (DataDependentOutputException, GuardOnDataDependentSymNode) as error:
            raise AsksForValueError from error
    if any(node.target is aten._local_scalar_dense.default for node in graph.graph.nodes):
        raise AsksForValueError
    tidy(graph)
    places = [node for node in graph.graph.nodes if node.op == "placeholder"]
    used = [number for number, node in enumerate(places) if node.users]
    for node in places:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
    return graph, used


def _sum(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """A few terms at a time: a compiled sum adds them one after another, and rounding grows with them.

    Over 14,700 rows at once, batch norm in float32 was off by 1e-2.
    """
    dims = _dims(x, dim)
    groups: list[list[int]] = []
    for d in reversed(dims):
        if groups and prod(x.shape[e] for e in groups[-1]) * x.shape[d] <= MOST_TERMS:
            groups[-1].append(d)
        else:
            groups.append([d])
    if len(groups) == 1 and len(dims) == 1 and x.shape[dims[0]] > MOST_IN_ROW:
        return _in_chunks(x, dims[0], keepdim, dtype)
    if len(groups) < 2:
        return NotImplemented
    for group in groups:
        x = aten.sum.dim_IntList(x, group, True, dtype=dtype)
    return x if keepdim else x.squeeze(dims)


def _in_chunks(x: Tensor, dim: int, keepdim: bool, dtype: Any) -> Tensor:
    """The sum along one long dimension, of sums of `MOST_TERMS`; zeros fill the last."""
    x = x.movedim(dim, -1)
    x = aten.constant_pad_nd.default(x, [0, -x.shape[-1] % MOST_TERMS])
    x = aten.sum.dim_IntList(x.unflatten(-1, (-1, MOST_TERMS)), [-1], False, dtype=dtype)
    x = aten.sum.dim_IntList(x, [-1], False, dtype=dtype)
    return x.unsqueeze(dim) if keepdim else x


def _mean(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    dims = _dims(x, dim)
    count = prod(x.shape[d] for d in dims)
    if not count or not dims or not (dtype or x.dtype).is_floating_point:
        return NotImplemented
    return aten.sum.dim_IntList(x, dims, keepdim, dtype=dtype) / count


def _dims(x: Tensor, dim: Sequence[int] | None) -> list[int]:
    """The dimensions meant, in order; none are all, to torch."""
    return sorted({d % x.ndim for d in dim}) if dim else list(range(x.ndim))


def _whole(reduce: Callable) -> Callable:
    def all_dimensions(x: Tensor, *, dtype: Any = None) -> Tensor:
        return reduce(x, list(range(x.ndim)), False, dtype=dtype) if x.ndim else NotImplemented

    return all_dimensions


def _zeros(size: Sequence[int], *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    """Zeros with memory: those of autograd, as in the derivative of abs, have none for a kernel to read."""
    return torch.zeros(size, dtype=dtype, device=device)


_OURS = {
    aten._efficientzerotensor.default: _zeros,
    aten.sum.dim_IntList: _sum,
    aten.sum.default: _whole(aten.sum.dim_IntList),
    aten.mean.dim: _mean,
    aten.mean.default: _whole(aten.mean.dim),
}
