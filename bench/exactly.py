"""Values told apart by what they hold, where `==` is too coarse or there is no hash: keys of kernels."""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache, partial
from types import MethodType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
MOST_KNOWN = 256  # values whose content is kept; they stay alive as long

_constants = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_known: dict[int, tuple[object, Hashable]] = {}  # by address, which is a value's own while it is kept


@dataclass(frozen=True)
class Exactly(Generic[T]):
    """``value`` as a key: equal to another if both hold the same, down to types and the signs of zeros.

    For plugins: all fields of a dataclass count, also those that its own ``==`` leaves out; 1, 1.0 and True
    differ, 0.0 and -0.0 too; lists, dicts, sets, arrays and tensors count by their contents when the key is
    made, so that a change in place makes another key. Whatever else there is (functions, objects of
    unknown classes) equals itself only. Module globals that a function reads are not seen. Frozen
    dataclasses of nothing but constants are looked at once.
    """

    value: T = field(compare=False)
    content: Hashable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", _content(self.value))


class _Itself:
    """Equal to the same object only, which it keeps alive: its address is not given to another."""

    def __init__(self, value: object):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _content(value: Any) -> Hashable:
    kind: Any = type(value)
    if kind is float:
        return kind, value.hex()
    if kind is complex:
        return kind, value.real.hex(), value.imag.hex()
    if kind in _constants:
        return kind, value
    if id(value) in _known:
        return _known[id(value)][1]
    if isinstance(value, Tensor):
        return kind, str(value.device), value.requires_grad, _bytes(value.detach().cpu())
    if kind is np.ndarray and not value.dtype.hasobject:
        return kind, _array(value)
    if kind in (tuple, list):
        return kind, tuple(map(_content, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(_content, value))
    if kind is dict:
        return kind, tuple((_content(key), _content(item)) for key, item in value.items())
    if kind is partial:
        return kind, _content(value.func), _content(value.args), _content(value.keywords)
    if kind is MethodType:
        return kind, _Itself(value.__func__), _content(value.__self__)
    if is_dataclass(kind):
        held = tuple(getattr(value, name, None) for name in _names(kind))
        content = kind, tuple(map(_content, held))
        if _frozen(kind) and all(map(_constant, held)):
            if len(_known) == MOST_KNOWN:
                del _known[next(iter(_known))]
            _known[id(value)] = value, content
        return content
    return kind, _Itself(value)


@lru_cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


def _frozen(kind: Any) -> bool:
    return kind.__dataclass_params__.frozen


def _constant(value: Any) -> bool:
    """Whether nothing in ``value`` can change in place."""
    kind: Any = type(value)
    if kind is tuple:
        return all(map(_constant, value))
    return kind in _constants or id(value) in _known


def _bytes(x: Tensor) -> Hashable:
    return str(x.dtype), _array(x.contiguous().view(torch.uint8).numpy()), tuple(x.shape)


def _array(x: np.ndarray) -> Hashable:
    return x.dtype.str, x.shape, hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest()
