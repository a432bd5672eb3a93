"""A torch loss as a graph of ATen operations that says all that the loss does."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from bench.api import Declined


class _DifferentiatedThroughout(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not torch.is_grad_enabled():
            raise Declined(f"no translation of torch.no_grad(), around {func}, to JAX")
        return func(*args, **(kwargs or {}))


def nodes(function: Callable[..., Tensor], examples: Sequence[Tensor]) -> Iterable[Node]:
    """The nodes of ``function``'s graph; its tensors have no values, so that none becomes a constant.

    Raises `Declined` where ``function`` looks at a value or switches autograd off.
    """

    def watched(*tensors: Tensor) -> Tensor:
        with torch.enable_grad(), _DifferentiatedThroughout():
            return function(*tensors)

    function(*examples)  # what it keeps for later calls (an lru_cache) must not be made by a trace
    try:
        return make_fx(watched, tracing_mode="fake", _allow_non_fake_inputs=True)(*examples).graph.nodes
    except Declined:
        raise
    except Exception as error:  # it went well with values: what it wants of a graph, the graph has not
        said = (str(error).splitlines() or [""])[0]
        raise Declined(
            f"no translation to JAX of what asks for the value of a tensor: {type(error).__name__}: {said}"
        ) from error
