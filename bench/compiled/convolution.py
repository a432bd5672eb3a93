"""Convolution as one matrix product: images to columns by slices, and back, for any order of derivative.

On a CPU the derivatives of a small convolution, and theirs, run several times faster as matrix products.
Layout inside is channels last. For kernel size k, stride s, dilation d and padding p, the columns of output
pixel (a, b) are the padded image's pixels (s a + d i, s b + d j), i, j < k: shape [n, oh, ow, k k c].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]  # of height and width


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


class _Windowed(torch.autograd.Function):
    """A linear map of a tensor under a window, which its derivative needs alone."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Window], output: Tensor) -> None:
        ctx.window = inputs[1]


class _Columns(_Windowed):
    """Images [n, h, w, c] -> columns [n, oh, ow, kh kw c]; its derivative is `_Images`."""

    @staticmethod
    def forward(images: Tensor, window: Window) -> Tensor:
        return columns(images, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Images.apply(grads[0], ctx.window), None


class _Images(_Windowed):
    """The adjoint of `_Columns`: every column value added to the pixel that it was read from."""

    @staticmethod
    def forward(values: Tensor, window: Window) -> Tensor:
        return images(values, window)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Columns.apply(grads[0], ctx.window), None


def columns(x: Tensor, window: Window) -> Tensor:
    """Images [n, h, w, c] to columns [n, oh, ow, kh kw c]."""
    (p, q), (d, e) = window.padding, window.dilation
    reach = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    x = pad(x, (0, 0, q, q, p, p))
    x = x.unfold(1, reach[0], window.stride[0]).unfold(2, reach[1], window.stride[1])
    return x[..., ::d, ::e].permute(0, 1, 2, 4, 5, 3).flatten(3)


def images(values: Tensor, window: Window) -> Tensor:
    """Columns [n, oh, ow, kh kw c] to images [n, h, w, c]: the transpose of `columns`, one axis at a time."""
    values = values.unflatten(3, (*window.kernel, -1)).transpose(2, 3)  # [n, oh, kh, ow, kw, c]
    rows, cols = zip(*window, strict=True)
    values = _fold(values, 3, *cols)
    return _fold(values, 1, *rows)


def _fold(
    values: Tensor, axis: int, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """Axes [outputs, kernel] at ``axis`` to one axis of ``size`` pixels.

    Pixels of one phase, the remainder of their place by the stride, get their taps as whole shifted rows; the
    phases are then interleaved. So nothing is scattered.
    """
    n_out = values.shape[axis]
    places = [dilation * i for i in range(kernel)]
    # Of each phase: enough for every tap, and for pixels that no tap reads.
    length = max(n_out + places[-1] // stride, -(-(size + 2 * padding) // stride))
    phases = []
    for phase in range(stride):
        taps = [
            _shift(values.select(axis + 1, i), axis, place // stride, length)
            for i, place in enumerate(places)
            if place % stride == phase
        ]
        zeros = values.new_zeros([*values.shape[:axis], length, *values.shape[axis + 2 :]])
        phases.append(sum(taps[1:], taps[0]) if taps else zeros)
    return torch.stack(phases, axis + 1).flatten(axis, axis + 1).narrow(axis, padding, size)


def _shift(x: Tensor, axis: int, by: int, length: int) -> Tensor:
    """``x`` at place ``by`` of a row of zeros of this length."""
    edges = [0, 0] * (x.ndim - axis - 1) + [by, length - by - x.shape[axis]]
    return pad(x, edges)


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
    out, kernel = len(weight), _pair(weight.shape[2:])
    window = Window(_pair(input.shape[2:]), kernel, _pair(stride), _pair(padding), _pair(dilation))
    seen = _Columns.apply(input.permute(0, 2, 3, 1), window)
    result = seen.flatten(0, 2) @ weight.permute(2, 3, 1, 0).reshape(-1, out)
    if bias is not None:
        result = result + bias
    return result.unflatten(0, (len(input), *window.outputs)).permute(0, 3, 1, 2)


def _pair(value: Any) -> Pair:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])
