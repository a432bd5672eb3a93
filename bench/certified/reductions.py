"""ATen operations that sum, multiply matrices, or look for the largest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.certified.arithmetic import Array
from bench.certified.operators import Context, operator


@operator("mm")
def _mm(c, self, mat2):
    return c.arithmetic.product(self, mat2) if c.real else self @ mat2


@operator("bmm")
def _bmm(c, self, mat2):
    if not c.real:
        return self @ mat2
    found = np.empty((len(self), self.shape[1], mat2.shape[2]), c.arithmetic.numbers)
    for row, (a, b) in enumerate(zip(self, mat2, strict=True)):
        found[row] = c.arithmetic.product(a, b)
    return found


@operator("sum")
def _sum(c, self, dim=None, keepdim=False):
    return _fold(np.add, c.of(self if np.asarray(self).dtype != bool else self.astype(int)), dim, keepdim)


@operator("mean")
def _mean(c, self, dim=None, keepdim=False):
    count = int(np.prod([self.shape[d] for d in _axes(self, dim)]))
    return _sum(c, self, dim, keepdim) / c.of(count)


@operator("amax")
def _amax(c, self, dim=(), keepdim=False):
    for axis in sorted(_axes(self, dim), reverse=True):
        parts = [self.take([i], axis) for i in range(self.shape[axis])]
        while len(parts) > 1:
            pairs = [_larger(c, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = pairs + parts[len(pairs) * 2 :]
        self = parts[0]
    return self if keepdim else self.squeeze(tuple(_axes(self, dim)))


@operator("amin")
def _amin(c, self, dim=(), keepdim=False):
    return -_amax(c, -self, dim, keepdim)


@operator("any")
def _any(c, self, dim=None, keepdim=False):
    return c.truth(self).any(None if dim is None else tuple(_axes(self, dim)), keepdims=keepdim)


@operator("all")
def _all(c, self, dim=None, keepdim=False):
    return c.truth(self).all(None if dim is None else tuple(_axes(self, dim)), keepdims=keepdim)


@operator("linalg_vector_norm")
def _vector_norm(c, self, ord=2, dim=None, keepdim=False):
    if ord == 2:
        return c.arithmetic.apply("sqrt", _sum(c, self * self, dim, keepdim))
    if ord == np.inf:
        return _amax(c, c.arithmetic.apply("abs", self), dim, keepdim)
    if ord == 1:
        return _sum(c, c.arithmetic.apply("abs", self), dim, keepdim)
    raise NotImplementedError(f"the norm of order {ord}")


@operator("logsumexp")
def _logsumexp(c, self, dim, keepdim=False):
    largest = _amax(c, self, dim, True)
    total = _sum(c, c.arithmetic.apply("exp", self - largest), dim, True)
    found = largest + c.arithmetic.apply("log", total)
    return found if keepdim else found.squeeze(tuple(_axes(found, dim)))


@operator("_log_softmax")
def _log_softmax(c, self, dim, half_to_float=False):
    return self - _logsumexp(c, self, [dim], True)


def _axes(x: Array, dim: int | Sequence[int] | None) -> list[int]:
    """The axes meant; none are all, to torch."""
    if isinstance(dim, int):
        dim = [dim]
    return [d % max(x.ndim, 1) for d in dim][: x.ndim] if dim else list(range(x.ndim))


def _fold(function: np.ufunc, x: Array, dim: Any, keepdim: bool) -> Array:
    axes = _axes(x, dim)
    for axis in sorted(axes, reverse=True):  # numbers that are objects are summed along one axis at a time
        x = function.reduce(x, axis=axis, keepdims=True)
    x = np.asarray(x)
    return x if keepdim else x.squeeze(tuple(axes))


def _larger(c: Context, a: Array, b: Array) -> Array:
    return c.arithmetic.larger(a, b) if c.real else np.maximum(a, b)
