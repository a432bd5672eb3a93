"""Pickles of plain data are read as Python reads them; all else is refused, and nothing of it is run."""

import io
import os
import pickle
import pickletools
import random
import struct
import sys
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.errors import UsageError
from bench.problems import plain_pickle

ARRAY = np.arange(12, dtype=">i4").reshape(3, 4)
TYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "<f4", ">f8"]
PLAIN: dict[str, Any] = {
    "cifar": {
        "filenames": ["a.png", "é.png"],
        "fine_labels": [3, 99, 300],
        "data": np.zeros((2, 3072), np.uint8),
    },
    "same array twice": [ARRAY, {"again": ARRAY, 7: (ARRAY, 1)}],
    "columns first": np.asfortranarray(np.random.default_rng(0).random((3, 5))),
    "empty": [np.zeros((0, 4)), np.array(2.5), {}, [], (), "", b""],
    "scalars": [np.int64(-4), np.float32(2.5), np.bool_(True)],
    "numbers": [0, -1, 255, 256, 65536, 2**31, 2**70, -(2**70), 0.1, float("inf"), True, False, None],
    "text": ["abc", "\n'\\", "\u0416", b"\xff\x00", "a" * 300, b"b" * 300],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, (4, [5]))],
    "long": {"list": list(range(3000)), "dict": {str(i): i for i in range(3000)}},
    **{f"array of {t}": np.arange(6).astype(t).reshape(2, 3) for t in TYPES},
}


def _read(content: bytes) -> Any:
    return plain_pickle.read_stream(io.BytesIO(content), "the file", "Replace it.")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
        )
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_are_read_as_python_reads_them(name, protocol, tmp_path):
    path = tmp_path / "pickle"
    path.write_bytes(pickle.dumps(PLAIN[name], protocol))
    got, wanted = plain_pickle.read(path, ""), pickle.loads(path.read_bytes())
    if name == "scalars":  # plain numbers
        wanted = [number.item() for number in wanted]
    assert _same(got, wanted)
    assert _same(_read(path.read_bytes()), wanted)


def test_one_array_stays_one():
    for protocol in range(5):
        first, rest = _read(pickle.dumps(PLAIN["same array twice"], protocol))
        assert first is rest["again"]
        assert first is rest[7][0]


def _python2(value: Any) -> bytes:
    """The opcodes of protocol 2 as Python 2 writes them: its strings are bytes."""
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, np.ndarray):
        head = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        shape = b"".join(map(_python2, value.shape)) + b"t"
        dtype = (
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        return head + shape + dtype + b"\x89" + _python2(value.tobytes()) + b"tb"
    text = value if isinstance(value, bytes) else value.encode("latin-1")
    return b"T" + struct.pack("<i", len(text)) + text


def test_pickles_of_python_2_are_read_as_latin_1():
    value = {
        "names": ["apple", "caf\xe9"],
        "labels": [1, -2],
        "data": np.arange(256, dtype=np.uint8).reshape(4, 64),
    }
    content = b"\x80\x02" + _python2(value) + b"."
    assert _same(_read(content), value)
    assert _same(pickle.loads(content, encoding="latin1"), value)  # the writer above writes what it says


class _Call:
    def __init__(self, *reduced: Any):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A path that is there as soon as anything was run, and a module that makes it when it is imported."""
    marker = tmp_path / "sprung"
    (tmp_path / "trap_of_the_test.py").write_text(
        f"from pathlib import Path\n\ndef spring(*_):\n    Path({str(marker)!r}).touch()\n\nspring()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return marker


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("inside", [False, True])
def test_calls_are_refused_and_not_made(trap, protocol, inside):
    touch = f"open({str(trap)!r}, 'w').close()"
    touched = Path(trap)
    calls = {
        "system": _Call(os.system, (f"touch {trap}",)),
        "eval": _Call(eval, (touch,)),
        "exec": _Call(exec, (touch,)),
        "PosixPath": _Call(Path, ("x",)),
        "getattr": _Call(getattr, (touched, "touch")),
        "OrderedDict": OrderedDict(a=1),
        "Fraction": Fraction(1, 2),
        "load": _Call(np.load, (str(trap),)),
        "fromfile": _Call(np.fromfile, (str(trap),)),
        "frombuffer": _Call(np.frombuffer, (b"1234",)),
        "zeros": _Call(np.zeros, ((10**6, 10**6),)),
        "open": _Call(open, (str(trap), "w")),
    }
    for name, call in calls.items():
        content = pickle.dumps({"a": [call]} if inside else call, protocol)
        with pytest.raises(
            UsageError, match=r"^the file is not read: .*Only pickles of .* are\. Replace it\.$"
        ):
            _read(content)
        assert not trap.exists(), name
    pickle.loads(pickle.dumps(calls["system"], protocol))
    assert trap.exists()  # the trap works


@pytest.mark.parametrize(
    "content",
    [
        b"ctrap_of_the_test\nspring\n(tR.",
        b"\x80\x04\x8c\x10trap_of_the_test\x8c\x06spring\x93)R.",
        b"(itrap_of_the_test\nspring\n.",
        b"(ctrap_of_the_test\nspring\no.",
        b"\x80\x02ctrap_of_the_test\nspring\n)\x81.",
        b"\x80\x04ctrap_of_the_test\nspring\n)}\x92.",
        b"cnumpy.core.multiarray\n_reconstruct\nctrap_of_the_test\nspring\n(tR.",
        b"cnumpy\ndtype.type.mro\n(tR.",
        b"\x80\x02\x82\x01.",
        b"Pid\n.",
        b"Kxq\x00Q.",
        b"\x80\x05\x97.",
    ],
    ids=[
        "global",
        "stack",
        "inst",
        "obj",
        "newobj",
        "newobj_ex",
        "inside",
        "dotted",
        "ext",
        "id",
        "binid",
        "buffer",
    ],
)
def test_names_are_not_imported(trap, content):
    with pytest.raises(UsageError, match=r"it asks for '|it uses the opcode"):
        _read(content)
    assert not trap.exists()
    assert "trap_of_the_test" not in sys.modules


def _array2(shape: bytes = b"K\x02K\x03\x86", first: bytes = b"K\x00\x85", order: bytes = b"\x89") -> bytes:
    """An array of 6 zeros of Python 2 with something put in the place of its shape."""
    whole = b"\x80\x02" + _python2(np.zeros((2, 3), np.uint8)) + b"."
    return (
        whole.replace(b"(J\x02\0\0\0J\x03\0\0\0t", shape)
        .replace(b"K\x00\x85", first)
        .replace(b"\x89T", order + b"T")
    )


HUGE = b"J\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_array2(shape=HUGE + HUGE + b"\x86"), "an impossible shape"),
        (_array2(shape=HUGE + b"K\x02\x86"), r"an array of shape \(2147483647, 2\) and 6 bytes"),
        (_array2(shape=b"(" + 40 * b"K\x01" + b"t"), "an impossible shape"),
        (_array2(shape=b"J\xff\xff\xff\xffJ\xfa\xff\xff\xff\x86"), "an impossible shape"),
        (_array2(shape=b"G?\xf0\0\0\0\0\0\0K\x06\x86"), "an impossible shape"),
        (_array2(shape=b"K\x06"), "an impossible shape"),
        (_array2(shape=HUGE + HUGE + b"K\x00\x87"), "an impossible shape"),
        (_array2()[:-1] + _array2().partition(b"K\x00\x85U\x01b\x87R")[2], "fills an array twice"),
        (_array2(first=HUGE + b"\x85"), "reconstructs something that is no array"),
        (_array2().replace(b"u1", b"O8"), "an array of the type 'O8'"),
        (_array2().replace(b"U\x01|NNN", b"U\x01|NN}"), "whose elements are not numbers"),
        (pickle.dumps(np.array([{}], dtype=object)), "an array of the type 'O8'"),
        (pickle.dumps(np.array(["a"])), "an array of the type 'U1'"),
        (pickle.dumps(np.zeros(2, [("a", "i4"), ("b", "f8")])), "an array of the type 'V12'"),
        (pickle.dumps(np.zeros(2, "m8[s]")), "an array of the type 'm8'"),
        (pickle.dumps(np.ma.zeros(3)), "it asks for 'numpy.ma"),
        (pickle.dumps(np.dtype("f8")), "it holds 'DType' as a value"),
        (pickle.dumps([np.ndarray]), "it holds 'numpy ndarray' as a value"),
        (pickle.dumps((1, np.ndarray)), "it holds 'Arguments' as a value"),
        (pickle.dumps({(1, 2): 3}), "a dict with a key of the type tuple"),
        (pickle.dumps({1, 2}), "it uses the opcode EMPTY_SET"),
        (pickle.dumps(bytearray(b"1"), 5), "it holds 'bytearray' as a value"),
        (pickle.dumps(1j), "it asks for '.*complex'"),
        (b"}}b.", "sets the state of something that is no array"),
        (b"cnumpy\nndarray\n}b.", "sets the state of something that is no array"),
        (b"}(K\x01K\x02tR.", "calls something that is no reconstruction"),
        (b"cnumpy\nndarray\n(K\x01tR.", "calls something that is no reconstruction"),
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0rot\x86R.", "it encodes text"),
        (b"K\x01K\x02.", "does not end with one object"),
        (b".", "does not end with one object"),
        (b"(K\x01.", "does not end with one object"),
        (b"h\x07.", "damaged or cut off"),
        (b"](K\x01(e.", "there is no list to add to"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc", "damaged or cut off"),
        (b"\x80\x02B\xff\xff\xff\xffabc", "damaged or cut off"),
        (b"", "damaged or cut off"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off|it uses the opcode"),
        (b"K\x01r\xff\xff\xff\x7fK\x02.", "does not end with one object"),  # a memo of two billion places
    ],
    ids=str,
)
def test_what_is_not_plain_is_refused(content, message):
    with pytest.raises(UsageError, match=f"the file is not read: .*{message}"):
        _read(content)


def test_the_fixture_of_arrays_is_one():
    assert _same(_read(_array2()), np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_cut_off_anywhere_is_refused(protocol, tmp_path):
    content = pickle.dumps({"names": ["a", "b" * 300], "data": np.arange(4.0), "n": 2**70}, protocol)
    path = tmp_path / "pickle"
    for length in range(len(content)):
        with pytest.raises(UsageError, match="the file is not read"):
            _read(content[:length])
    path.write_bytes(content[:-1])
    with pytest.raises(UsageError, match=rf"^{path} is not read: .*cut off.*\. Replace it\.$"):
        plain_pickle.read(path, "Replace it.")
    path.write_bytes(b"")
    with pytest.raises(UsageError, match=f"^{path} is not read"):
        plain_pickle.read(path, "Replace it.")
    with pytest.raises(UsageError, match=r"is not read: .*No such file"):
        plain_pickle.read(tmp_path / "none", "")


def _all_plain(value: Any, seen: set[int]) -> bool:
    if id(value) in seen:
        return True
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if isinstance(value, dict):
        return all(_all_plain(part, seen) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(_all_plain(part, seen) for part in value)
    return value is None or type(value) in (str, bytes, int, float, bool)


def test_damaged_bytes_give_plain_data_or_the_error(trap):
    rng = random.Random(0)
    opcodes = [ord(opcode.code) for opcode in pickletools.opcodes]
    refused = 0
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        whole = pickle.dumps(
            {"a": [np.arange(3), (1, "x")], "b": _Call(os.system, (f"touch {trap}",))}, protocol
        )
        for _ in range(500):
            content = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.choice([rng.randrange(256), rng.choice(opcodes)])
            try:
                assert _all_plain(_read(bytes(content)), set())
            except UsageError:
                refused += 1
    assert refused > 2900
    assert not trap.exists()
