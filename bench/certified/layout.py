"""ATen operations that move numbers and change none. Views share memory here where they do in torch."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from bench.certified.arithmetic import Array
from bench.certified.operators import operator


@operator("view", "_unsafe_view")
def _view(c, self, size):
    return self.reshape(size)


@operator("detach", "alias", "lift_fresh")
def _same(c, self):
    return self[...]


@operator("clone")
def _clone(c, self):
    return self.copy()


@operator("_to_copy")
def _to_copy(c, self, dtype=None):
    if dtype == torch.bool:
        return c.truth(self).copy()
    return c.of(self).copy() if c.real or dtype is None else c.of(self).astype(np.int64)


@operator("copy")
def _copy(c, self, src):
    return np.broadcast_to(c.of(src), self.shape)


@operator("expand")
def _expand(c, self, size):
    own = (1,) * (len(size) - self.ndim) + self.shape
    return np.broadcast_to(self, [n if s == -1 else s for s, n in zip(size, own, strict=True)])


@operator("permute")
def _permute(c, self, dims):
    return self.transpose(dims)


@operator("transpose")
def _transpose(c, self, dim0, dim1):
    return self.swapaxes(dim0, dim1)


@operator("t")
def _t(c, self):
    return self.T


@operator("squeeze")
def _squeeze(c, self, dim=None):
    axes = range(self.ndim) if dim is None else [d % max(self.ndim, 1) for d in _list(dim)]
    return self.squeeze(tuple(d for d in axes if d < self.ndim and self.shape[d] == 1))


@operator("unsqueeze")
def _unsqueeze(c, self, dim):
    return np.expand_dims(self, dim)


@operator("select")
def _select(c, self, dim, index):
    return _at(self, dim, index)


@operator("slice")
def _slice(c, self, dim=0, start=None, end=None, step=1):
    return _at(self, dim, slice(start, end, step))


@operator("select_scatter")
def _select_scatter(c, self, src, dim, index):
    found = self.copy()
    _at(found, dim, index)[...] = c.of(src)
    return found


@operator("slice_scatter")
def _slice_scatter(c, self, src, dim=0, start=None, end=None, step=1):
    found = self.copy()
    _at(found, dim, slice(start, end, step))[...] = c.of(src)
    return found


@operator("split_with_sizes")
def _split_with_sizes(c, self, split_sizes, dim=0):
    return _split(self, split_sizes, dim)


@operator("split")
def _split_evenly(c, self, split_size, dim=0):
    n = self.shape[dim]
    return _split(self, [min(split_size, n - i) for i in range(0, n, split_size)], dim)


@operator("unbind")
def _unbind(c, self, dim=0):
    return [_at(self, dim, i) for i in range(self.shape[dim])]


@operator("unfold")
def _unfold(c, self, dimension, size, step):
    windows = np.lib.stride_tricks.sliding_window_view(self, size, dimension % self.ndim)
    return _at(windows, dimension % self.ndim, slice(None, None, step))


@operator("diagonal")
def _diagonal(c, self, offset=0, dim1=0, dim2=1):
    return self.diagonal(offset, dim1, dim2)


@operator("cat")
def _cat(c, tensors, dim=0):
    return np.concatenate([c.of(x) for x in tensors if x.shape != (0,)], dim)


@operator("stack")
def _stack(c, tensors, dim=0):
    return np.stack([c.of(x) for x in tensors], dim)


@operator("flip")
def _flip(c, self, dims):
    return np.flip(self, dims).copy()


@operator("repeat")
def _repeat(c, self, repeats):
    return np.tile(self, repeats)


@operator("constant_pad_nd")
def _pad(c, self, pad, value=0):
    ends = [(0, 0)] * (self.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    kept = self[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(self.shape, ends, strict=True))]
    found = _full(c, [n + a + b for n, (a, b) in zip(self.shape, ends, strict=True)], value)
    found[tuple(slice(max(a, 0), max(a, 0) + n) for n, (a, _) in zip(kept.shape, ends, strict=True))] = kept
    return found


@operator("full")
def _full(c, size, fill_value):
    return np.broadcast_to(c.of(fill_value), size).copy()


@operator("scalar_tensor")
def _scalar(c, s):
    return _full(c, [], s)


@operator("full_like", "fill")
def _full_like(c, self, fill_value=0, value=None):
    return _full(c, self.shape, fill_value if value is None else value)


@operator("zeros", "_efficientzerotensor")
def _zeros(c, size):
    return _full(c, size, 0 if c.real else False)


@operator("ones")
def _ones(c, size):
    return _full(c, size, 1 if c.real else True)


@operator("zeros_like", "zero")
def _zeros_like(c, self):
    return _zeros(c, self.shape)


@operator("ones_like")
def _ones_like(c, self):
    return _ones(c, self.shape)


@operator("new_zeros")
def _new_zeros(c, self, size):
    return _zeros(c, size)


@operator("new_ones")
def _new_ones(c, self, size):
    return _ones(c, size)


@operator("new_full")
def _new_full(c, self, size, fill_value):
    return _full(c, size, fill_value)


@operator("index")
def _index(c, self, indices):
    return self[_places(self, indices)].copy()


@operator("index_put")
def _index_put(c, self, indices, values, accumulate=False):
    found, places = self.copy(), _places(self, indices)
    if accumulate:
        np.add.at(found, places, c.of(values))
    else:
        found[places] = c.of(values)
    return found


@operator("index_select")
def _index_select(c, self, dim, index):
    return self.take(index, dim)


@operator("gather")
def _gather(c, self, dim, index):
    return self[_along(index, dim)]


@operator("scatter")
def _scatter(c, self, dim, index, src=None, value=None):
    found = self.copy()
    found[_along(index, dim)] = c.of(value if src is None else _cut(src, index))
    return found


@operator("scatter_add")
def _scatter_add(c, self, dim, index, src):
    found = self.copy()
    np.add.at(found, _along(index, dim), c.of(_cut(src, index)))
    return found


@operator("_local_scalar_dense")
def _item(c, self):
    return self


def _at(x: Array, dim: int, index: int | slice) -> Array:
    place: list[Any] = [slice(None)] * x.ndim
    place[dim] = index
    return x[(*place, ...)]


def _split(x: Array, sizes: list[int], dim: int) -> list[Array]:
    ends = np.cumsum([0, *sizes]).tolist()
    return [_at(x, dim, slice(a, b)) for a, b in pairwise(ends)]


def _places(x: Array, indices: list[Array | None]) -> tuple[Any, ...]:
    if any(i is not None and i.dtype == bool for i in indices):
        raise NotImplementedError("an index that is a mask")
    return (*(slice(None) if i is None else i for i in indices), ...)


def _along(index: Array, dim: int) -> tuple[Array, ...]:
    """Where `gather` reads and `scatter` writes."""
    places: list[Any] = list(np.indices(index.shape, sparse=True))
    places[dim] = index
    return tuple(places)


def _cut(src: Array, index: Array) -> Array:
    return src[tuple(slice(n) for n in index.shape)]


def _list(dim: int | list[int]) -> list[int]:
    return [dim] if isinstance(dim, int) else list(dim)
