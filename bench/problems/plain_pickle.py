"""Pickles of plain data, read without the machine that runs what a pickle says.

Only arrays of booleans, integers and floats, lists, dicts, tuples, strings, bytes, numbers and None can come
of it: the file's opcodes are played on a stack of our own, no name in it is ever imported, and the few that
stand for numpy's arrays are known by their spelling. Strings of Python 2 are read as Latin-1, so that its
arrays come out right. Cost: a few microseconds an opcode; an array's bytes are copied once or twice.
"""

import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.errors import UsageError

ALLOWED = "numeric arrays, lists, dicts, strings and numbers"
PLAIN = (np.ndarray, list, dict, tuple, str, bytes, int, float, bool, type(None))
KEYS = (str, bytes, int)
NUMERIC = re.compile(r"b1|[iu][1248]|f[248]")
RENAMED = re.compile(r"numpy\._?core\.")  # numpy 2 moved its insides
NAMES = (
    "numpy ndarray",
    "numpy dtype",
    "numpy.core.multiarray _reconstruct",
    "numpy.core.multiarray scalar",
    "numpy.core.numeric _frombuffer",
    "_codecs encode",
    "__builtin__ bytes",
)
DAMAGE = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, Warning)


class _Refused(Exception):
    """What is wrong with a pickle, as the end of a sentence about it."""


@dataclass(frozen=True)
class _Name:
    """A global that a pickle names; one of `NAMES`."""

    name: str


@dataclass
class _DType:
    """A numeric type on its way to an array. Its byte order comes after it."""

    dtype: np.dtype


class _Arguments(tuple):
    """A tuple with something in it that is not plain: good for nothing but a call."""


def read(path: Path, what_to_do: str) -> Any:
    """The object in a pickle file. Raises `UsageError`, which ends with ``what_to_do``, where that is not
    plain data, and where the file is damaged."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _play(content)
    except (_Refused, OSError, ValueError) as error:  # an empty file cannot be mapped
        raise _error(str(path), error, what_to_do) from error


def read_stream(stream: IO[bytes], name: str, what_to_do: str) -> Any:
    """As `read`, of an open file that ends with the pickle; ``name`` is for the message."""
    try:
        return _play(stream)
    except _Refused as error:
        raise _error(name, error, what_to_do) from error


def _error(name: str, error: Exception, what_to_do: str) -> UsageError:
    return UsageError(f"{name} is not read: {error}. Only pickles of {ALLOWED} are. {what_to_do}")


def _play(stream: Any) -> Any:
    player = _Player()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in PUSHED:
                player.stack.append(argument)
            elif opcode.name in OPERATIONS:
                OPERATIONS[opcode.name](player, argument)
            elif opcode.name not in ("PROTO", "FRAME", "STOP"):
                raise _Refused(f"it uses the opcode {opcode.name}")
    except DAMAGE as error:
        raise _Refused(f"it is damaged or cut off ({type(error).__name__}: {error})") from error
    if len(player.stack) != 1 or player.marks:
        raise _Refused("it is damaged: it does not end with one object")
    return _plain(player.stack[0])


class _Player:
    """The state of a pickle that is being read: stack, places of marks in it, and memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop(self, n: int) -> list[Any]:
        return [self.stack.pop() for _ in range(n)][::-1]

    def top(self, kind: type) -> Any:
        """The object on top, which must be of that kind and above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0) or type(self.stack[-1]) is not kind:
            raise _Refused(f"it is damaged: there is no {kind.__name__} to add to")
        return self.stack[-1]

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def make_list(self) -> None:
        self.stack.append([_plain(item) for item in self.since_mark()])

    def make_dict(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.update(items)

    def make_tuple(self, items: list[Any]) -> None:
        self.stack.append(tuple(items) if all(type(i) in PLAIN for i in items) else _Arguments(items))

    def extend(self, items: list[Any]) -> None:
        self.top(list).extend([_plain(item) for item in items])

    def update(self, items: list[Any]) -> None:
        keys, values = items[::2], items[1::2]
        strange = [key for key in keys if type(key) not in KEYS]
        if strange:
            raise _Refused(f"it has a dict with a key of the type {type(strange[0]).__name__}")
        self.top(dict).update(zip(keys, map(_plain, values), strict=True))

    def name(self, module: Any, name: Any) -> None:
        full = RENAMED.sub("numpy.core.", f"{module} {name}")
        if full not in NAMES:
            raise _Refused(f"it asks for {f'{module}.{name}'[:80]!r}")
        self.stack.append(_Name(full))

    def reduce(self, _: Any) -> None:
        function, arguments = self.pop(2)
        name = function.name if isinstance(function, _Name) else None
        if not isinstance(arguments, tuple) or name not in CALLS:
            raise _Refused("it calls something that is no reconstruction of an array")
        self.stack.append(CALLS[name](*arguments))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, tuple) or not isinstance(target, np.ndarray | _DType):
            raise _Refused("it sets the state of something that is no array")
        if isinstance(target, _DType):
            _, order, *rest = state
            if order not in ("<", ">", "|", "=") or rest[:3] != [None] * 3:
                raise _Refused("it has an array whose elements are not numbers")
            target.dtype = target.dtype if order == "|" else target.dtype.newbyteorder(order)
        elif target.size:
            raise _Refused("it fills an array twice")
        else:
            _, shape, dtype, by_columns, content = state
            content = _content(content, dtype, shape)
            whole: Any = (1, shape, dtype.dtype, by_columns is True, content)
            target.__setstate__(whole)  # in place, because the memo may hold the array already


def _plain(value: Any) -> Any:
    if type(value) not in PLAIN:
        what = value.name if isinstance(value, _Name) else type(value).__name__.strip("_")
        raise _Refused(f"it holds {what!r} as a value")
    return value


def _content(content: Any, dtype: Any, shape: Any) -> bytes | bytearray:
    """The bytes of an array, checked against its type and shape: no shape makes anything be allocated."""
    if not isinstance(dtype, _DType):
        raise _Refused("it has an array without a numeric type")
    if isinstance(content, str):  # of Python 2
        content = content.encode("latin-1")
    if not isinstance(content, bytes | bytearray):
        raise _Refused("it has an array whose content is no bytes")
    lengths = isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)
    if not lengths or prod(n or 1 for n in shape) >= 2**56:  # also where another length is 0
        raise _Refused("it has an array of an impossible shape")
    if prod(shape) * dtype.dtype.itemsize != len(content):
        raise _Refused(f"it has an array of shape {str(shape)[:60]} and {len(content)} bytes")
    return content


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    content = _content(content, dtype, shape)
    return np.frombuffer(content, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What ``_reconstruct`` returns: an array that its state will fill."""
    if kind != _Name("numpy ndarray") or shape != (0,) or code not in (b"b", "b"):
        raise _Refused("it reconstructs something that is no array")
    return np.empty(0, np.uint8)


def _dtype(code: Any, _align: Any = False, _copy: Any = False) -> _DType:
    if not isinstance(code, str) or not NUMERIC.fullmatch(code):
        raise _Refused(f"it has an array of the type {str(code)[:40]!r}")
    return _DType(np.dtype(code))


def _scalar(dtype: Any, content: Any) -> bool | int | float:
    return _array(content, dtype, (), "C").item()


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes as protocols 0 to 2 of Python 3 write them, unless there are none: then ``bytes()`` is called."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("it encodes text")
    return text.encode("latin-1")


CALLS: dict[str | None, Callable[..., Any]] = {
    "numpy dtype": _dtype,
    "numpy.core.multiarray _reconstruct": _empty,
    "numpy.core.multiarray scalar": _scalar,
    "numpy.core.numeric _frombuffer": _array,
    "_codecs encode": _encoded,
    "__builtin__ bytes": lambda: b"",
}
PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
OPERATIONS: dict[str, Callable[[_Player, Any], None]] = {
    "NONE": lambda p, _: p.stack.append(None),
    "NEWTRUE": lambda p, _: p.stack.append(True),
    "NEWFALSE": lambda p, _: p.stack.append(False),
    "MARK": _Player.mark,
    "EMPTY_LIST": lambda p, _: p.stack.append([]),
    "EMPTY_DICT": lambda p, _: p.stack.append({}),
    "EMPTY_TUPLE": lambda p, _: p.stack.append(()),
    "LIST": lambda p, _: p.make_list(),
    "DICT": lambda p, _: p.make_dict(),
    "TUPLE": lambda p, _: p.make_tuple(p.since_mark()),
    "TUPLE1": lambda p, _: p.make_tuple(p.pop(1)),
    "TUPLE2": lambda p, _: p.make_tuple(p.pop(2)),
    "TUPLE3": lambda p, _: p.make_tuple(p.pop(3)),
    "APPEND": lambda p, _: p.extend(p.pop(1)),
    "APPENDS": lambda p, _: p.extend(p.since_mark()),
    "SETITEM": lambda p, _: p.update(p.pop(2)),
    "SETITEMS": lambda p, _: p.update(p.since_mark()),
    "PUT": _Player.put,
    "BINPUT": _Player.put,
    "LONG_BINPUT": _Player.put,
    "MEMOIZE": _Player.memoize,
    "GET": _Player.get,
    "BINGET": _Player.get,
    "LONG_BINGET": _Player.get,
    "GLOBAL": lambda p, argument: p.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda p, _: p.name(*p.pop(2)),
    "REDUCE": _Player.reduce,
    "BUILD": _Player.build,
}
