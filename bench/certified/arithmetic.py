"""The numbers that a program is played in: float64, and balls that hold the exact result."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb, arb_mat
from numpy.typing import NDArray

Array = NDArray[Any]  # of the arithmetic's numbers; of bool or int64 where the program has these

_COMPARE: dict[str, Callable] = {
    "gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le,
    "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip
_OPPOSITE = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt", "eq": "ne", "ne": "eq"}


class UndecidedError(ArithmeticError):
    """A comparison, or the like, whose answer this precision does not tell."""


class LostError(ArithmeticError):
    """A ball without an end: what a computation that is undefined, or whose error exploded, leaves."""


class Arithmetic(ABC):
    """Real numbers in arrays of dtype ``numbers``; + - * / and unary - of these arrays are elementwise."""

    numbers: np.dtype

    @abstractmethod
    def of(self, x: Array | float) -> Array:
        """Float64, int64 or bool as numbers, exactly; numbers stay as they are."""

    @abstractmethod
    def apply(self, function: str, x: Array) -> Array:
        """An elementwise function by its name: exp, log, sqrt, tanh, ..., see `operators`."""

    @abstractmethod
    def power(self, x: Array, exponent: Array) -> Array: ...

    @abstractmethod
    def compare(self, relation: str, a: Array, b: Array) -> Array:
        """gt, ge, lt, le, eq or ne, elementwise, as bool. May raise `UndecidedError` and `LostError`."""

    @abstractmethod
    def larger(self, a: Array, b: Array) -> Array:
        """The elementwise maximum, which needs no decision."""

    @abstractmethod
    def product(self, a: Array, b: Array) -> Array:
        """The product of two matrices."""

    @abstractmethod
    def finite(self, x: Array) -> Array: ...

    @abstractmethod
    def is_number(self, x: Any, seen: float) -> bool:
        """Whether the number x is ``seen`` and cannot be any other."""

    @abstractmethod
    def exponents(self, x: Array) -> Array:
        """The e of x = m 2^e, 1/2 <= |m| < 1; 0 for 0."""


class Floats(Arithmetic):
    """IEEE double precision, by numpy."""

    numbers = np.dtype(np.float64)

    def of(self, x):
        return np.asarray(x, np.float64)

    def apply(self, function, x):
        if function == "erf":
            from scipy.special import erf

            return erf(x)
        return 1 / np.sqrt(x) if function == "rsqrt" else getattr(np, function)(x)

    def power(self, x, exponent):
        return np.power(x, exponent)

    def compare(self, relation, a, b):
        return _COMPARE[relation](a, b)

    def larger(self, a, b):
        return np.maximum(a, b)

    def product(self, a, b):
        return a @ b

    def finite(self, x):
        return np.isfinite(x)

    def is_number(self, x, seen):
        return bool(x == seen or (np.isnan(x) and np.isnan(seen)))

    def exponents(self, x):
        return np.frexp(x)[1].astype(np.int64)


class Balls(Arithmetic):
    """Midpoint and radius at the precision of `flint.ctx`: every ball holds what exact arithmetic gives.

    A comparison is made only where it is the same for all points of the balls.
    """

    numbers = np.dtype(object)

    def of(self, x):
        array = np.asarray(x)
        return array if array.dtype == object else _array(_EXACT(array.astype(object)))

    def apply(self, function, x):
        return _array(_FUNCTIONS[function](x))

    def power(self, x, exponent):
        return _array(_POWER(x, exponent))

    def compare(self, relation, a, b):
        return np.asarray(_RELATIONS[relation](a, b), np.bool_)

    def larger(self, a, b):
        return _array(_LARGER(a, b))

    def product(self, a, b):
        (n, k), m = a.shape, b.shape[1]
        if 0 in (n, k, m):
            return self.of(np.zeros((n, m)))
        found = np.empty(n * m, object)
        found[:] = (arb_mat(n, k, a.ravel().tolist()) * arb_mat(k, m, b.ravel().tolist())).entries()
        return found.reshape(n, m)

    def finite(self, x):
        return np.asarray(_FINITE(x), np.bool_)

    def is_number(self, x, seen):
        return bool(x == arb(seen))

    def exponents(self, x):
        return np.asarray(_EXPONENT(x), np.int64)


def _array(x: Any) -> Array:
    """Functions of arrays without dimensions come back as bare numbers."""
    return np.asarray(x, object)


def _decided(relation: str) -> Callable[[arb, arb], bool]:
    holds, fails = _COMPARE[relation], _COMPARE[_OPPOSITE[relation]]

    def decide(a: arb, b: arb) -> bool:
        if a is b and a.is_finite():  # a number and itself: `isfinite` asks so
            return relation in ("ge", "le", "eq")
        if holds(a, b):
            return True
        if fails(a, b):
            return False
        if a.is_nan() or b.is_nan():
            raise LostError("an undefined number is compared")
        ball = a - b
        if not ball.is_finite():
            raise LostError("a number of unbounded error is compared")
        raise UndecidedError(f"is {ball.str(3)} above 0?")

    return decide


def _power(x: arb, exponent: arb) -> arb:
    whole = exponent.unique_fmpz()
    if whole is not None and exponent.is_exact():
        return x ** int(whole)
    if exponent == arb(0.5):
        return x.sqrt()
    if exponent == arb(-0.5):
        return x.rsqrt()
    return x**exponent


def _is_finite(x: arb) -> bool:
    if x.is_finite():
        return True
    if x.is_exact() and not x.is_nan():
        return False
    raise LostError("a number of unbounded error is asked whether it is finite")


def _exponent(x: arb) -> int:
    if x.is_zero():
        return 0
    low, high = (_exact_exponent(end) for end in (x.abs_lower(), x.abs_upper()))
    if low != high:
        raise UndecidedError(f"which power of two is next above {x.str(3)}?")
    return low


def _exact_exponent(x: arb) -> int:
    if x.is_zero() or not x.is_finite():
        raise LostError("the size of a number of unbounded error, or of one that may be 0, is asked for")
    mantissa, exponent = x.man_exp()
    return int(mantissa).bit_length() + int(exponent)


_EXACT = np.frompyfunc(arb, 1, 1)
_FUNCTIONS = {
    name: np.frompyfunc(getattr(arb, name), 1, 1)
    for name in ("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "tanh", "sin", "cos", "erf")
} | {"abs": np.frompyfunc(abs, 1, 1)}
_POWER, _LARGER = np.frompyfunc(_power, 2, 1), np.frompyfunc(arb.max, 2, 1)
_FINITE, _EXPONENT = np.frompyfunc(_is_finite, 1, 1), np.frompyfunc(_exponent, 1, 1)
_RELATIONS = {relation: np.frompyfunc(_decided(relation), 2, 1) for relation in _COMPARE}
