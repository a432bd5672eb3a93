"""One run of a function, written down as a `Program`: every operation below autograd and vmap, by its name.

`make_fx` does the same with a proxy for every tensor and a graph. Here what Python learns about a number
on the way (`.item()`, `if`) is part of the program instead of an error,
and every operation has its line of Python.

What is taken on trust: torch's own decompositions into simpler operations, and that a lone number which no
operation made is a literal in the code, and not what an extension has computed out of sight.
"""

import gc
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from bench.certified.operators import name_of
from bench.certified.program import Node, NotCertifiedError, Program, Value, replace
from bench.compiled.convolution import AsMatrixProducts

# Ways to a tensor's numbers that no operation shows.
_WAYS = ("tolist", "numpy", "__array__", "__dlpack__", "__deepcopy__", "__reduce_ex__", "data_ptr")
_WAYS += ("untyped_storage", "storage")
_HIDDEN = {getattr(torch.Tensor, name): name for name in _WAYS}
_OF_SHAPES = ("is_same_size", "_has_same_storage_numel")  # whose answers no number changes
_TORCH, _HERE = str(Path(torch.__file__).parent), str(Path(__file__).parent)
_PYTHON, _INSTALLED = sysconfig.get_path("stdlib"), "site-packages"
# Random numbers and memory without content: what a run drew or found is a constant of its program.
_DRAWN = (
    "rand",
    "randn",
    "rand_like",
    "randn_like",
    "randint",
    "randperm",
    "normal",
    "bernoulli",
    "empty",
    "empty_like",
    "new_empty",
)
_DRAWN += ("empty_strided", "new_empty_strided", "eye", "arange")


def trace(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    outside: Sequence[Tensor] = (),
    stage: Callable[[], str] = str,
    answers: Sequence[Any] = (),
) -> Program:
    """The program of ``function`` at these inputs; ``function`` returns a sequence of tensors.

    ``outside`` are the other tensors that it is known to read. Where it reads more, it is run once more,
    after a look at all tensors there are: what is older than the run is a constant of its program, what no
    operation made in the run hides numbers. ``stage`` says at any moment how far the run has come. Branches
    are taken as the run took them, the first ones as ``answers`` says; they are nodes of the program, for
    whoever plays it to verify. Raises `NotCertifiedError` for what hides numbers from view.
    """
    try:
        return _traced(function, inputs, _memory([*inputs, *outside]), stage, answers)
    except _UnseenError:
        return _traced(function, inputs, _memory(_all_tensors()), stage, answers)


def _traced(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    outside: dict[int, StorageWeakRef],
    stage: Callable[[], str],
    answers: Sequence[Any],
) -> Program:
    recorder = _Recorder(outside, stage, list(answers))
    given = tuple(recorder.new(x) for x in inputs)
    with _NoHiding(), AsMatrixProducts(), recorder:
        results = function(*inputs)
    outputs = tuple(recorder.value(x, None) for x in results)
    written = {node.writes.storage for node in recorder.nodes if node.writes is not None}
    shared = [value.storage for value in (*given, *recorder.constants)]
    if any(shared.count(storage) > 1 for storage in written):
        raise NotCertifiedError("hidden numbers", "a tensor from outside is changed in place")
    program = Program(given, recorder.constants, tuple(recorder.nodes), outputs, frozenset(written))
    return program.pruned()


class _UnseenError(NotCertifiedError):
    """A tensor came from elsewhere."""

    def __init__(self) -> None:
        message = f"a tensor came about by no operation that can be seen ({_where()})"
        super().__init__("hidden numbers", message)


class _NoHiding(TorchFunctionMode):
    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := _HIDDEN.get(func)) is not None:
            raise NotCertifiedError("hidden numbers", f"taken out of a tensor by `{name}` ({_where()})")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self, outside: dict[int, StorageWeakRef], stage: Callable[[], str], answers: list[Any]):
        super().__init__()
        self.nodes: list[Node] = []
        self.constants: dict[Value, Tensor] = {}
        self._stage, self._answers = stage, answers
        self._known = WeakIdKeyDictionary()
        self._outside = outside
        self._storages: dict[int, StorageWeakRef] = {}  # held, so that no address serves twice
        self._places: dict[Any, Value] = {}
        self._count = 0
        self._whole = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name_of(func) is None and name not in _DRAWN:
            results = self._decomposed(func, args, kwargs)
            if results is not NotImplemented:
                return results
        with torch._C.DisableTorchFunction():
            _refuse_unclear(func)
            taken, named = (replace(x, Tensor, lambda x: self.value(x, func)) for x in (args, kwargs))
            results = func(*args, **kwargs)
            if name in _OF_SHAPES:
                return results
            if name in _DRAWN:
                self.constants[self.new(results)] = results.detach().clone()
                return results
            given = self._results(results, func, args)
        baked = results if isinstance(results, bool | int | float) else None
        if baked is not None and self._answers:
            results = baked = self._answers.pop(0)
        where = self._whole + _where()
        self.nodes.append(Node(len(self.nodes), func, taken, named, given, baked, where, self._stage()))
        return results

    def _decomposed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outermost, self._whole = self._whole, self._whole or f"as a part of {func.overloadpacket}, "
        try:
            with self:
                if func in decomposition_table:
                    return decomposition_table[func](*args, **kwargs)
                return func.decompose(*args, **kwargs)
        finally:
            self._whole = outermost

    def value(self, x: Tensor, taker: Any) -> Value:
        """The value of a tensor that ``taker`` takes. One that was there before the run is a constant."""
        known = self._known.get(x)
        if known is not None and (known.storage, known.shape) == (x.untyped_storage()._cdata, x.shape):
            return known
        # An `nn.Parameter` of another tensor is the same numbers, and so is `x` after `x.data = other`.
        if (same := self._places.get(_place(x))) is not None:
            return same
        fresh = x.untyped_storage()._cdata not in self._outside
        # Literals come as tensors of one number, and lists of them by `torch.tensor`.
        if fresh and x.ndim and taker is not torch.ops.aten.lift_fresh.default:
            raise _UnseenError
        self.constants[value := self.new(x)] = x.detach().clone()
        return value

    def new(self, x: Tensor) -> Value:
        storage = x.untyped_storage()
        self._storages.setdefault(storage._cdata, StorageWeakRef(storage))
        self._known[x] = Value(self._count, tuple(x.shape), x.dtype, storage._cdata)
        self._places[_place(x)] = self._known[x]
        self._count += 1
        return self._known[x]

    def _results(self, results: Any, func: Any, args: tuple[Any, ...]) -> Any:
        if isinstance(results, Tensor):
            if func._schema.is_mutable and results is args[0]:
                return self._known[results]
            return self.new(results)
        return replace(results, Tensor, self.new)


def _all_tensors() -> Iterator[Tensor]:
    return (x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter))


def _memory(tensors: Iterable[Tensor]) -> dict[int, StorageWeakRef]:
    """The memory of these tensors, held as above."""
    found = {}
    for x in tensors:
        with suppress(RuntimeError, NotImplementedError):  # a wrapper has none
            storage = x.untyped_storage()
            found[storage._cdata] = StorageWeakRef(storage)
    return found


@cache
def _refuse_unclear(func: Any) -> None:
    """What changes anything but the numbers of its first argument has no place in a list of values."""
    changed = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    first = func._schema.arguments[0].name if func._schema.arguments else None
    if any(name != first for name in changed) or torch.Tag.inplace_view in func.tags:
        raise NotCertifiedError("unsupported operator", f"{func} ({_where()})")


def _place(x: Tensor) -> tuple[Any, ...]:
    """Tensors of one place are the same numbers."""
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride(), x.dtype


def _where() -> str:
    """The innermost line of Python that is neither torch's nor this package's, and what it computes there."""
    node = torch._C._current_autograd_node()
    frame = sys._getframe(1)
    while frame.f_back is not None and _passing(frame.f_code):
        frame = frame.f_back
    place = _line(frame.f_code, frame.f_lineno)
    return place if node is None else f"{node.name()}, asked for by {place}"


@cache
def _line(code: CodeType, number: int) -> str:
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.name}:{number} in {code.co_name}"


@cache
def _passing(code: CodeType) -> bool:
    if code.co_filename.startswith(_PYTHON) and _INSTALLED not in code.co_filename:
        return True
    return code.co_name == "__torch_function__" or code.co_filename.startswith((_TORCH, _HERE, "<"))
