"""Which smooth piece of a loss a point lies on: the decisions that its operations take there.

A loss made of ReLU, max-pooling, absolute values and comparisons is smooth as long as none of them changes
its mind. They are read from the operations that torch executes, so the problem need not know.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten


def _positive(result: Any, x: Tensor, *_: Any) -> list[Tensor]:
    return [x > 0]


def _above(result: Any, x: Tensor, bound: Any, *_: Any) -> list[Tensor]:
    return [x > bound]


def _between(result: Any, x: Tensor, low: Any = None, high: Any = None) -> list[Tensor]:
    return [x > bound for bound in (low, high) if bound is not None]


def _itself(result: Tensor, *_: Any) -> list[Tensor]:
    return [result]


def _where(result: tuple[Tensor, Tensor], *_: Any) -> list[Tensor]:
    return [result[1]]


_DECISIONS: dict[Any, Callable[..., list[Tensor]]] = {
    **dict.fromkeys((aten.relu, aten.abs, aten.leaky_relu, aten.elu, aten.sign), _positive),
    **dict.fromkeys((aten.threshold, aten.clamp_min, aten.clamp_max, aten.maximum, aten.minimum), _above),
    **dict.fromkeys((aten.clamp, aten.hardtanh), _between),
    **dict.fromkeys((aten.gt, aten.lt, aten.ge, aten.le, aten.argmax, aten.argmin), _itself),
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.sort, aten.topk), _where),
}
_ENDS = (
    aten.max,
    aten.min,
)  # one argument: of all; with a dimension: with indices; with a tensor: elementwise


class _Decisions(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if rule := _DECISIONS.get(packet):
            self.taken += [part.flatten().long() for part in rule(result, *args, **(kwargs or {}))]
        elif packet in _ENDS:
            at = result[1] if isinstance(result, tuple) else args[0] == result
            self.taken.append(at.flatten().long())
        return result


def piece(loss: Callable[[], Tensor]) -> Tensor:
    """The decisions taken while ``loss()`` is computed, one number each; empty where it has none."""
    with torch.no_grad(), _Decisions() as mode:
        loss()
    return torch.cat(mode.taken) if mode.taken else torch.empty(0, dtype=torch.long)
