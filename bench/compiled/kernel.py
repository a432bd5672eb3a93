"""One function of a `Bilevel` as a kernel: traced, compiled, checked, or the reason why not."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.bilevel import Bilevel
from bench.compiled import check
from bench.compiled.flat import Shape, flatten, nest
from bench.compiled.lower import lower
from bench.compiled.trace import trace
from bench.tasks import Problem, Tasks


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
        function, static = self.function, self.static
        while not hasattr(function, "__qualname__"):  # a function of a Hessian product
            function, static = function.function, (*function.static, *static)
        parts = ", ".join(type(part).__name__ for part in static if part is not None)
        return f"{function.__qualname__}({parts})"

    def play(self, *values: Tensor) -> tuple[Any, dict[str, int]]:
        """The function's result in eager mode, and the oracle calls that it made of every task."""
        bilevel = Bilevel(self.problem, Tasks(*values[1:5]), values[0])
        bilevel._nudge = values[5] if self.nudged else None
        given = values[self.n_fixed - self.n_given : self.n_fixed]
        result = self.function(bilevel, *self.static, *given, *nest(values[self.n_fixed :], self.shape))
        return result, {name: number for name, number in bilevel.calls.as_dict().items() if number}


@dataclass
class Kernel:
    """What `build` makes of a `Source`; ``call`` is None where eager mode has to do, for this ``reason``.

    used: the numbers of the inputs that ``call`` takes. parts: True where it takes one task at a time.
    shape: of the results, None for a single tensor. calls: the oracle calls that one call stands for.
    seconds: spent on building. error, eager_error: see `check.errors`. operations: of the graph.
    """

    name: str
    parts: bool
    call: Callable[[list[Tensor]], Sequence[Tensor]] | None = None
    reason: str | None = None
    used: list[int] = field(default_factory=list)
    shape: Shape | None = None
    calls: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: float | None = None
    eager_error: float | None = None
    operations: int = 0

    def __call__(self, values: Sequence[Tensor]) -> Any:
        """The results for all inputs of the `Source`."""
        assert self.call is not None
        inputs = [values[i] for i in self.used]
        if self.parts:
            n_tasks = len(values[1])
            shared = [not _by_task(i, values[i]) for i in self.used]
            rows = [
                self.call([x if same else x[t : t + 1] for x, same in zip(inputs, shared, strict=True)])
                for t in range(n_tasks)
            ]
            results = [torch.cat(column) for column in zip(*rows, strict=True)]
        else:
            results = self.call(inputs)
        return results[0] if self.shape is None else nest(results, self.shape)

    def report(self) -> dict[str, Any]:
        """For the record: JSON types."""
        if self.reason is not None:
            return {"eager": self.reason}
        return {
            "seconds": self.seconds,
            "operations": self.operations,
            "error": self.error,
            "eager_error": self.eager_error,
        }


def build(source: Source, values: Sequence[Tensor]) -> Kernel:
    """The kernel of ``source`` for inputs like ``values``, checked at inputs near them."""
    start = time.perf_counter()
    kernel = Kernel(source.name, source.problem.batching == "loop")
    first = [x[:1] if kernel.parts and _by_task(i, x) else x for i, x in enumerate(values)]
    inputs = [x.detach().clone() for x in first]  # where two arguments are one tensor, a trace confuses them

    def traced(*values: Tensor) -> tuple[Tensor, ...]:
        result, kernel.calls = source.play(*values)
        several = isinstance(result, tuple)
        flat, shape = flatten(result if several else (result,))
        kernel.shape = shape if several else None
        return tuple(flat)

    def eager(values: Sequence[Tensor]) -> list[Tensor]:
        result = source.play(*values)[0]
        return flatten(result if isinstance(result, tuple) else (result,))[0]

    try:
        graph, kernel.used = trace(traced, inputs)
        kernel.operations = sum(node.op == "call_function" for node in graph.graph.nodes)
        call = lower(graph, [inputs[i] for i in kernel.used])
        probes = check.probe(inputs)
        compiled = call([probes[i] for i in kernel.used])
        kernel.error, kernel.eager_error = check.errors(list(compiled), eager, probes)
        if check.acceptable(kernel.error, kernel.eager_error, values[0].dtype):
            kernel.call = call
        else:
            kernel.reason = (
                f"refused: {kernel.error:.2g} from float64, where eager mode is at {kernel.eager_error:.2g}"
            )
    except Exception as error:  # noqa: BLE001  a user's loss may do anything, and eager mode is always there
        lines = str(error).strip().splitlines() or [""]
        kernel.reason = f"{type(error).__name__}: {lines[0][:300]}"
    kernel.seconds = time.perf_counter() - start
    return kernel


def _by_task(number: int, x: Tensor) -> bool:
    """Whether input ``number`` has a row for every task: not so a shared meta vector and plain numbers."""
    return x.ndim > (1 if number == 0 else 0)
