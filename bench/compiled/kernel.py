"""One function of a `Bilevel` as a kernel: traced, compiled, checked, or the reason why not."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

from bench import native
from bench.bilevel import Bilevel
from bench.compiled import check, taskwise
from bench.compiled.flat import Shape, flatten, nest
from bench.compiled.lower import Call, found_on_disk, lower
from bench.compiled.split import split
from bench.compiled.trace import trace
from bench.plugin import Declined
from bench.tasks import Problem, Tasks

aten = torch.ops.aten
log = logging.getLogger(__name__)

DATA = range(1, 5)  # the tensors of the tasks among the inputs
Product = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # of both matrices shape and strides
Kept = list[list[Tensor]]  # for every call of a kernel's parts what its `once` computed


class Played(NamedTuple):
    """Results as a flat list, their form (None: a single tensor), and the oracle calls made of every task."""

    results: list[Tensor]
    shape: Shape | None
    calls: dict[str, int]


@dataclass(frozen=True)
class Source:
    """What a kernel is made of: ``function(bilevel, *static, *given, *arguments)`` on tasks of ``problem``.

    Its inputs are one flat list: meta, the four tensors of the tasks, the nudge if ``nudged``, ``n_given``
    tensors, and the arguments in the form of ``shape``.
    """

    problem: Problem
    function: Callable
    static: tuple[Any, ...]
    nudged: bool
    n_given: int
    shape: Shape

    @property
    def n_fixed(self) -> int:
        """Inputs that stay the same from call to call."""
        return 5 + self.nudged + self.n_given

    @property
    def name(self) -> str:
        function, parts = self._plain()
        return f"{function.__qualname__}({', '.join(parts)})"

    @property
    def what(self) -> str:
        """What is computed, in words: the first clause of the function's docstring; its name without one."""
        function, parts = self._plain()
        said = re.split(r"[:;.]", (function.__doc__ or "").strip(), maxsplit=1)[0].replace("`", "")
        return " ".join(said.split() or [function.__qualname__]) + (f" ({', '.join(parts)})" if parts else "")

    def _plain(self) -> tuple[Any, list[str]]:
        """The function itself, and the names of its parts."""
        function: Any = self.function
        static = self.static
        while not hasattr(function, "__qualname__"):  # a function of a Hessian product
            function, static = function.function, (*function.static, *static)
        return function, [type(part).__name__ for part in static if part is not None]

    def play(self, *values: Tensor, plain: bool = False) -> Played:
        """The function in eager mode; with ``plain`` it is given numbers as it is without an engine."""
        bilevel = Bilevel(self.problem, Tasks(*(values[i] for i in DATA)), values[0])
        bilevel._nudge = values[5] if self.nudged else None
        given = values[self.n_fixed - self.n_given : self.n_fixed]
        rest: Sequence[Any] = values[self.n_fixed :]
        if plain:
            rest = [x.item() if x.ndim == 0 else x for x in rest]
        result = self.function(bilevel, *self.static, *given, *nest(rest, self.shape))
        several = isinstance(result, tuple)
        flat, shape = flatten(result if several else (result,))
        calls = {name: number for name, number in bilevel.calls.as_dict().items() if number}
        return Played(flat, shape if several else None, calls)


@dataclass
class Kernel:
    """What `build` makes of a `Source`; ``call`` is None where eager mode has to do, for this ``reason``.

    used: the numbers of the inputs that ``call`` takes. parts: True where it takes one task at a time.
    once: what depends on the fixed inputs alone, as one call of its own whose results end the inputs of
    ``call``, and ``once_used``; None where there is nothing of the sort or it would not be called twice.
    shape: of the results, None for a single tensor. calls: the oracle calls that one call stands for.
    lowering: what made machine code of ``call``, "task by task" (`bench.compiled.taskwise`) or "torch".
    what: it computes, in words. size: tasks and parameters. cached: found compiled on the disk.
    seconds: spent on building. error, eager_error: see `check.errors`. operations: of the graph.
    products: the matrix products of ``call``, by shapes and strides.
    """

    name: str
    parts: bool
    call: Call | None = None
    reason: str | None = None
    used: list[int] = field(default_factory=list)
    once: Call | None = None
    once_used: list[int] = field(default_factory=list)
    shape: Shape | None = None
    calls: dict[str, int] = field(default_factory=dict)
    lowering: str = ""
    what: str = ""
    size: tuple[int, int] = (0, 0)
    cached: bool = False
    seconds: float = 0.0
    error: float | None = None
    eager_error: float | None = None
    operations: int = 0
    products: tuple[Product, ...] = ()

    def prepare(self, fixed: Sequence[Tensor]) -> Kept:
        """What ``once`` makes of the fixed inputs: a list for every call, to be handed on."""
        if self.once is None:
            return []
        return [list(self.once(inputs)) for inputs in self._inputs(fixed, self.once_used)]

    def __call__(self, values: Sequence[Tensor], kept: Kept) -> Any:
        """The results for all inputs of the `Source`."""
        assert self.call is not None
        several = self._inputs(values, self.used)
        rows = [self.call(inputs + kept[t] if kept else inputs) for t, inputs in enumerate(several)]
        results = [torch.cat(column) for column in zip(*rows, strict=True)] if len(rows) > 1 else rows[0]
        return results[0] if self.shape is None else nest(results, self.shape)

    def _inputs(self, values: Sequence[Tensor], used: list[int]) -> list[list[Tensor]]:
        """The inputs of every call: one for all tasks, or one a task."""
        inputs = [values[i] for i in used]
        if not self.parts:
            return [inputs]
        pairs = list(zip(inputs, [_by_task(i, values[i]) for i in used], strict=True))
        return [[x[t : t + 1] if own else x for x, own in pairs] for t in range(len(values[1]))]

    def report(self) -> dict[str, Any]:
        """For the record: JSON types."""
        if self.reason is not None:
            return {"eager": self.reason}
        return {
            "seconds": self.seconds,
            "operations": self.operations,
            "lowering": self.lowering,
            "error": self.error,
            "eager_error": self.eager_error,
        }


def build(source: Source, values: Sequence[Tensor]) -> Kernel:
    """The kernel of ``source`` for inputs like ``values``, checked at inputs near them."""
    start = time.perf_counter()
    kernel = Kernel(source.name, source.problem.batching == "loop", what=source.what)
    kernel.size = (len(values[1]), values[0].shape[-1])
    first = [x[:1] if kernel.parts and _by_task(i, x) else x for i, x in enumerate(values)]
    inputs = [x.detach().clone() for x in first]  # where two arguments are one tensor, a trace confuses them

    def traced(*values: Tensor) -> tuple[Tensor, ...]:
        results, kernel.shape, kernel.calls = source.play(*values)
        return tuple(results)

    try:
        source.play(*inputs)  # what a loss keeps for later calls (an lru_cache) must not be made by a trace
        graph, kernel.used = trace(traced, inputs)
        kernel.operations = sum(node.op == "call_function" for node in graph.graph.nodes)
        probes = check.probe(inputs, as_they_are=DATA)
        before = _found_on_disk()
        compiled = _lower(kernel, graph, source, probes)
        kernel.cached = _found_on_disk() - before == 1 + (kernel.once is not None)
        kernel.error, kernel.eager_error = check.errors(
            compiled, lambda values: source.play(*values, plain=True).results, probes
        )
        if not check.acceptable(kernel.error, kernel.eager_error, values[0].dtype):
            kernel.call = None
            kernel.reason = (
                f"refused: {kernel.error:.2g} from float64, where eager mode is at {kernel.eager_error:.2g}"
            )
    except Exception as error:  # noqa: BLE001  a user's loss may do anything, and eager mode is always there
        kernel.call = None
        kernel.reason = _said(error)
    kernel.seconds = time.perf_counter() - start
    return kernel


def _lower(kernel: Kernel, graph: GraphModule, source: Source, inputs: list[Tensor]) -> Sequence[Tensor]:
    """Compile ``graph``, in two parts where the fixed inputs have one of their own; results at ``inputs``."""
    fixed = [i for i in kernel.used if i < source.n_fixed]
    parts = split(graph, len(fixed)) if source.n_given else None
    shared = [i for i in kernel.used if not _by_task(i, inputs[i])]
    n_tasks = 0 if kernel.parts else len(inputs[DATA[0]])
    kept: list[Tensor] = []
    if parts is not None:
        first, graph = parts
        given = [inputs[i] for i in fixed]
        kernel.once, _ = _compiled(first, given, [i in shared for i in fixed], n_tasks)
        kernel.once_used = fixed
        kept = list(kernel.once(list(given)))
    kernel.products = _products(graph)
    given = [inputs[i] for i in kernel.used] + kept
    marks = [i in shared for i in kernel.used] + [False] * len(kept)
    kernel.call, kernel.lowering = _compiled(graph, given, marks, n_tasks)
    return kernel.call(given)


def _compiled(
    graph: GraphModule, inputs: Sequence[Tensor], shared: Sequence[bool], n_tasks: int
) -> tuple[Call, str]:
    """Machine code, and what made it; ``n_tasks`` is 0 for a problem that says "loop"."""
    if n_tasks:
        try:
            return taskwise.lower(graph, inputs, shared, n_tasks), "task by task"
        except (taskwise.UnsupportedError, Declined) as error:
            log.debug("not task by task: %s", error)
    return lower(graph, inputs), "torch"


def _found_on_disk() -> int:
    return found_on_disk() + native.found_on_disk()


def _products(graph: GraphModule) -> tuple[Product, ...]:
    found = []
    for node in graph.graph.nodes:
        if node.target in (aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default):
            values = [matrix.meta["val"] for matrix in node.args[-2:]]
            found.append(tuple((tuple(v.shape), tuple(v.stride())) for v in values))
    return tuple(found)


def untraceable(bilevel: Bilevel) -> str | None:
    """Why the inner gradient of a problem stays in eager mode; None where it can be traced."""
    t = bilevel.tasks
    values = (bilevel.meta, t.support_x, t.support_y, t.query_x, t.query_y, bilevel.start)
    source = Source(bilevel.problem, Bilevel.inner_grad, (), nudged=False, n_given=0, shape=(None,))
    try:
        source.play(*values)  # see `build`
        trace(lambda *inputs: tuple(source.play(*inputs).results), values)
    except Exception as error:  # noqa: BLE001  a user's loss may do anything
        return _said(error)
    return None


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _by_task(number: int, x: Tensor) -> bool:
    """Whether input ``number`` has a row for every task: not so a shared meta vector and plain numbers."""
    return x.ndim > (1 if number == 0 else 0)
