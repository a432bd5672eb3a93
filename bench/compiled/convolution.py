"""Convolution as one matrix product: images to columns by slices, and back, for any order of derivative.

On a CPU the derivatives of a small convolution, and theirs, run several times faster as matrix products.
Layout inside is channels last. For kernel size k, stride s, dilation d and padding p, the columns of output
pixel (a, b) are the padded image's pixels (s a + d i, s b + d j), i, j < k: shape [n, oh, ow, k k c].
"""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]


class Window(NamedTuple):
    """How a convolution looks at its images: everything in (height, width)."""

    image: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    @property
    def outputs(self) -> Pair:
        """Height and width of the result."""
        rows = zip(*self, strict=True)
        first, second = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in rows)
        return first, second


class _Columns(torch.autograd.Function):
    """Images [n, h, w, c] -> columns [n, oh, ow, kh kw c]; its derivative is `_Images`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, window: Window) -> Tensor:
        return columns(images, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Window], output: Tensor) -> None:
        ctx.window = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Images.apply(grads[0], ctx.window), None


class _Images(torch.autograd.Function):
    """The adjoint of `_Columns`: every column value added to the pixel that it was read from."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, window: Window) -> Tensor:
        return images(values, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Window], output: Tensor) -> None:
        ctx.window = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Columns.apply(grads[0], ctx.window), None


def columns(x: Tensor, window: Window) -> Tensor:
    """Images [n, h, w, c] to columns [n, oh, ow, kh kw c]."""
    (high, wide), (s, t), (p, q) = window.outputs, window.stride, window.padding
    x = pad(x, (0, 0, q, q, p, p))
    taps = [
        x[:, i : i + s * (high - 1) + 1 : s, j : j + t * (wide - 1) + 1 : t]
        for i, j in product(*_offsets(window))
    ]
    return torch.cat(taps, dim=3)


def images(values: Tensor, window: Window) -> Tensor:
    """Columns [n, oh, ow, kh kw c] to images [n, h, w, c]: the transpose of `columns`.

    Pixels of one phase, the remainder of their place by the stride, get their taps as whole shifted images;
    the phases are then interleaved. So nothing is scattered.
    """
    (s, t), (p, q), (h, w) = window.stride, window.padding, window.image
    rows, cols = _offsets(window)
    # Of each phase; enough for every tap, and for pixels that no tap reads.
    high = max(window.outputs[0] + rows[-1] // s, -(-(h + 2 * p) // s))
    wide = max(window.outputs[1] + cols[-1] // t, -(-(w + 2 * q) // t))
    values = values.unflatten(3, (len(rows), len(cols), -1))
    phases = []
    for a, b in product(range(s), range(t)):
        total = None
        for (m, i), (n, j) in product(enumerate(rows), enumerate(cols)):
            if (i % s, j % t) != (a, b):
                continue
            above, left = i // s, j // t
            edges = (left, wide - values.shape[2] - left, above, high - values.shape[1] - above)
            tap = pad(values[:, :, :, m, n], (0, 0, *edges))
            total = tap if total is None else total + tap
        phases.append(values.new_zeros(len(values), high, wide, values.shape[-1]) if total is None else total)
    # [n, high, s, wide, t, c]
    grid = torch.stack(phases, dim=3).unflatten(3, (s, t)).transpose(2, 3)
    return grid.flatten(3, 4).flatten(1, 2)[:, p : p + h, q : q + w]


def _offsets(window: Window) -> tuple[list[int], list[int]]:
    """Of the taps from the window's corner, along each axis."""
    rows, cols = ([d * i for i in range(k)] for k, d in zip(window.kernel, window.dilation, strict=True))
    return rows, cols


class AsMatrixProducts(TorchFunctionMode):
    """Inside the block, two-dimensional convolutions with one group are computed as above."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            return _conv2d(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    native: Callable,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    if groups != 1 or input.ndim != 4 or isinstance(padding, str):
        return native(input, weight, bias, stride, padding, dilation, groups)
    out, _, *kernel = weight.shape
    sizes = (tuple(input.shape[2:]), tuple(kernel), *map(_pair, (stride, padding, dilation)))
    window = Window(*sizes)
    seen = _Columns.apply(input.permute(0, 2, 3, 1), window)
    result = seen.flatten(0, 2) @ weight.permute(2, 3, 1, 0).reshape(-1, out)
    if bias is not None:
        result = result + bias
    return result.unflatten(0, (len(input), *window.outputs)).permute(0, 3, 1, 2)


def _pair(value: Any) -> Pair:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])
