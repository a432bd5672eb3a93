"""ATen operations on arrays of any arithmetic, by their names and with the arguments of their schemas.

A cast is the identity: numbers have one kind of their own, whatever the dtype. What torch's own table of
decompositions reduces to these operations needs no entry.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.certified.arithmetic import Arithmetic, Array

OPERATORS: dict[str, Callable] = {}


@dataclass(frozen=True)
class Context:
    """What an operation has beside its arguments. ``real``: whether its (first) result is of real numbers."""

    arithmetic: Arithmetic
    real: bool

    def of(self, x: Any) -> Array:
        """An operand as the result's kind of number."""
        if self.real:
            return self.arithmetic.of(x)
        if self.is_real(x):
            raise NotImplementedError("real numbers that become whole ones")
        return np.asarray(x)

    def is_real(self, x: Any) -> bool:
        return isinstance(x, np.ndarray) and x.dtype == self.arithmetic.numbers

    def truth(self, x: Any) -> Array:
        """Which numbers are not 0."""
        return self.compare("ne", x, 0) if self.is_real(x) else np.asarray(x).astype(bool)

    def compare(self, relation: str, a: Any, b: Any) -> Array:
        return self.arithmetic.compare(relation, self.arithmetic.of(a), self.arithmetic.of(b))


def name_of(target: Any) -> str | None:
    """The name among `OPERATORS` of an ATen operation, that of ``add`` for ``add_``; None if it has none."""
    name = target.overloadpacket.__name__
    if target._schema.is_mutable:
        name = name.removesuffix("_")
    return name if name in OPERATORS else None


def operator(*names: str) -> Callable[[Callable], Callable]:
    """Makes a function of a `Context` and the arguments known by these names."""

    def add(function: Callable) -> Callable:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


@operator("add")
def _add(c, self, other, alpha=1):
    scaled = c.of(other) if alpha == 1 else c.of(other) * c.of(alpha)
    return c.of(self) + scaled


@operator("sub")
def _sub(c, self, other, alpha=1):
    scaled = c.of(other) if alpha == 1 else c.of(other) * c.of(alpha)
    return c.of(self) - scaled


@operator("mul")
def _mul(c, self, other):
    if c.real or np.asarray(self).dtype != bool or np.asarray(other).dtype != bool:
        return c.of(self) * c.of(other)
    return self & other


@operator("div")
def _div(c, self, other):
    return c.of(self) / c.of(other)


@operator("neg")
def _neg(c, self):
    return -self


@operator("reciprocal")
def _reciprocal(c, self):
    return c.of(1) / c.of(self)


@operator("pow")
def _pow(c, self, exponent):
    if not c.real:
        return np.power(self, exponent)
    if isinstance(exponent, int | float) and exponent == 2:
        return c.of(self) * c.of(self)
    return c.arithmetic.power(c.of(self), c.of(exponent))


def _elementwise(name: str) -> None:
    operator(name)(lambda c, self: c.arithmetic.apply(name, c.of(self)))


for _name in ("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "tanh", "sin", "cos", "erf", "abs"):
    _elementwise(_name)


@operator("sigmoid")
def _sigmoid(c, self):
    return c.of(1) / (c.of(1) + c.arithmetic.apply("exp", -c.of(self)))


@operator("hypot")
def _hypot(c, self, other):
    return c.arithmetic.apply("sqrt", c.of(self) * c.of(self) + c.of(other) * c.of(other))


@operator("frexp")
def _frexp(c, self):
    exponent = c.arithmetic.exponents(self)
    return self / _two_to(c, exponent), exponent


@operator("ldexp")
def _ldexp(c, self, other):
    return c.of(self) * _two_to(c, other)


def _two_to(c: Context, exponent: Array) -> Array:
    return c.arithmetic.power(c.arithmetic.of(np.full(exponent.shape, 2)), c.arithmetic.of(exponent))


@operator("relu")
def _relu(c, self):
    return c.arithmetic.larger(c.of(self), c.of(0)) if c.real else np.maximum(self, 0)


@operator("maximum")
def _maximum(c, self, other):
    return c.arithmetic.larger(c.of(self), c.of(other)) if c.real else np.maximum(self, other)


@operator("minimum")
def _minimum(c, self, other):
    return -c.arithmetic.larger(-c.of(self), -c.of(other)) if c.real else np.minimum(self, other)


@operator("clamp")
def _clamp(c, self, min=None, max=None):
    self = c.of(self)
    self = self if min is None else _maximum(c, self, min)
    return self if max is None else _minimum(c, self, max)


def _comparison(name: str) -> None:
    operator(name)(lambda c, self, other: c.compare(name, self, other))


for _name in ("gt", "ge", "lt", "le", "eq", "ne"):
    _comparison(_name)


@operator("sign", "sgn")
def _sign(c, self):
    above, below = c.compare("gt", self, 0), c.compare("lt", self, 0)
    return c.of(above.astype(np.int64) - below.astype(np.int64))


@operator("equal")
def _equal(c, self, other):
    return bool(np.shape(self) == np.shape(other) and c.compare("eq", self, other).all())


@operator("isfinite")
def _isfinite(c, self):
    return c.arithmetic.finite(c.arithmetic.of(self))


@operator("isnan")
def _isnan(c, self):
    return np.zeros_like(c.arithmetic.finite(c.arithmetic.of(self)))  # an undefined number ends the run


@operator("where")
def _where(c, condition, self, other):
    return np.where(condition, c.of(self), c.of(other))


@operator("masked_fill")
def _masked_fill(c, self, mask, value):
    return np.where(mask, c.of(value), c.of(self))


@operator("bitwise_and", "logical_and")
def _and(c, self, other):
    return c.of(self) & c.of(other)


@operator("bitwise_or", "logical_or")
def _or(c, self, other):
    return c.of(self) | c.of(other)


@operator("bitwise_xor", "logical_xor")
def _xor(c, self, other):
    return c.of(self) ^ c.of(other)


@operator("bitwise_not", "logical_not")
def _not(c, self):
    return ~c.of(self)


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
            pairs = [_maximum(c, a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
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
