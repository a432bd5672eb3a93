"""Elementwise ATen operations on arrays of any arithmetic, by name, with the arguments of their schemas.

A cast is the identity: numbers have one kind of their own, whatever the dtype. What torch's own table of
decompositions reduces to these operations needs no entry.
"""

from collections.abc import Callable
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
