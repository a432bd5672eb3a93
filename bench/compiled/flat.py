"""Arguments and results of kernels, alone or in tuples, to flat lists of tensors and back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int | None, ...]  # of each value None, or the length of a tuple


def flatten(values: tuple[Any, ...]) -> tuple[list[Tensor], Shape]:
    """The tensors of ``values`` in order, contiguous; numbers become tensors without dimensions."""
    flat: list[Tensor] = []
    shape: list[int | None] = []
    for value in values:
        several = isinstance(value, tuple)
        shape.append(len(value) if several else None)
        for x in value if several else (value,):
            flat.append(x.contiguous() if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64))
    return flat, tuple(shape)


def nest(flat: Sequence[Any], shape: Shape) -> tuple[Any, ...]:
    """The inverse of `flatten`."""
    values = iter(flat)
    return tuple(
        next(values) if length is None else tuple(next(values) for _ in range(length)) for length in shape
    )
