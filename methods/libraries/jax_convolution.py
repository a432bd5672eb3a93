"""Convolution as one matrix product: on the CPU XLA's own, and its derivatives more so, take several times
as long."""

from itertools import product
from math import prod
from typing import Any

from bench.api import Declined


def convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups) -> Any:
    """ATen's, in one or more dimensions, channels last inside: each tap of the kernel is a strided slice of
    the padded input, the slices side by side are multiplied by the kernel."""
    import jax
    import jax.numpy as jnp

    if transposed or groups != 1:
        raise Declined("no translation of a transposed or grouped convolution to JAX")
    n_out, channels, *kernel = weight.shape
    x = jnp.moveaxis(input, 1, -1)
    x = jnp.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
    rows = list(zip(x.shape[1:-1], kernel, stride, dilation, strict=True))
    size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in rows]
    taps = []
    for tap in product(*map(range, kernel)):
        first = [t * d for t, d in zip(tap, dilation, strict=True)]
        last = [f + s * (m - 1) + 1 for f, s, m in zip(first, stride, size, strict=True)]
        taps.append(jax.lax.slice(x, [0, *first, 0], [len(x), *last, channels], [1, *stride, 1]))
    columns = jnp.concatenate(taps, axis=-1).reshape(-1, prod(kernel) * channels)
    matrix = jnp.moveaxis(weight, 1, -1).reshape(n_out, -1)
    # With the kernel's own order of axes its gradient transposes the small factor, not the columns.
    y = jax.lax.dot_general(columns, matrix, (((1,), (1,)), ((), ())))
    y = y if bias is None else y + bias
    return jnp.moveaxis(y.reshape(len(x), *size, n_out), -1, 1)
