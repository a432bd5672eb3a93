"""The engine of a cell: finds or builds the kernel of what goes through a `Bilevel`, and calls it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bench.api import Bilevel, FirstOrderSolver
from bench.compiled.flat import Shape, flatten
from bench.compiled.kernel import Kept, Kernel, Source, build
from bench.compiled.lower import in_transform
from bench.exactly import Exactly

Tape = dict[str, list[tuple[Kernel, list[Tensor], Kept]]]
MOST_KERNELS = 512  # in one process; then the oldest is forgotten

_kernels: dict[Any, Kernel] = {}
_lock = threading.RLock()


class Engine:
    """Compiles for one cell and knows afterwards what it used: `bench.bilevel.Engine`.

    Kernels are shared by all engines of the process: one for each function, problem, layout of the tensors,
    number of threads and precision of float32's products. A function that cannot be traced or compiled, or
    whose kernel is further from float64 than eager mode is, runs in eager mode; `report` says why.
    """

    def __init__(self) -> None:
        self._used: dict[str, Kernel] = {}
        self.tape: Tape | None = None  # what is called, where somebody asks

    def kernel(
        self,
        bilevel: Bilevel,
        function: Callable,
        *static: Any,
        given: tuple[Tensor, ...] = (),
        eager: Callable | None = None,
    ) -> Callable:
        """``function(bilevel, *static, *given, *arguments)`` as a function of the arguments."""
        # One kernel for all numbers of steps of an inner solver.
        named = tuple(part.rule() if isinstance(part, FirstOrderSolver) else part for part in static)
        return _Bound(self, bilevel, function, named, given, eager)

    def find(self, source: Source, values: list[Tensor]) -> Kernel:
        """The kernel of ``source`` for inputs like ``values``."""
        layout = tuple((x.shape, x.dtype, x.device) for x in values)
        key = (Exactly(source), layout, torch.get_num_threads(), torch.get_float32_matmul_precision())
        with _lock:
            kernel = _kernels.get(key)
            if kernel is None:
                kernel = _kernels[key] = build(source, values)
                if len(_kernels) > MOST_KERNELS:
                    del _kernels[next(iter(_kernels))]
        return self._note(kernel)

    def _note(self, kernel: Kernel) -> Kernel:
        number, name = 1, kernel.name
        while self._used.setdefault(name, kernel) is not kernel:
            number += 1
            name = f"{kernel.name} #{number}"
        return kernel

    @contextmanager
    def taped(self) -> Iterator[Tape]:
        """Every call of a kernel inside the block, by the kernel's name, with its inputs."""
        self.tape = {}
        try:
            yield self.tape
        finally:
            self.tape = None

    def kernels(self) -> dict[str, Kernel]:
        """Every kernel of this engine by name, those too that eager mode stands in for."""
        return dict(sorted(self._used.items()))

    def report(self) -> dict[str, dict[str, Any]]:
        """For every kernel by name the seconds to build it and errors of its check, or why there is none."""
        return {name: kernel.report() for name, kernel in self.kernels().items()}


class _Bound:
    """A function with its tasks, and its kernels by the layout of the arguments."""

    def __init__(
        self,
        engine: Engine,
        bilevel: Bilevel,
        function: Callable,
        static: tuple[Any, ...],
        given: tuple[Tensor, ...],
        eager: Callable | None,
    ):
        self._engine, self._bilevel, self._function, self._static = engine, bilevel, function, static
        self._given, self._eager = given, eager
        t, nudge = bilevel.tasks, bilevel._nudge
        fixed = (bilevel.meta, t.support_x, t.support_y, t.query_x, t.query_y)
        self._fixed = [x.contiguous() for x in (*fixed, *(() if nudge is None else (nudge,)), *given)]
        self._tracked = any(x.requires_grad for x in self._fixed)
        self._found: dict[Any, tuple[Kernel, Kept]] = {}

    def __call__(self, *arguments: Any) -> Any:
        flat, shape = flatten(arguments)
        tracked = torch.is_grad_enabled() and (self._tracked or any(x.requires_grad for x in flat))
        # Autograd and vmap cannot look into a kernel.
        if tracked or in_transform():
            return self._plain(*arguments)
        layout = (shape, *[(x.shape, x.dtype) for x in flat])
        if layout not in self._found:
            self._found[layout] = self._find(shape, flat)
        kernel, kept = self._found[layout]
        if kernel.call is None:
            return self._plain(*arguments)
        self._bilevel._spend(**kernel.calls)
        if self._engine.tape is not None:
            self._engine.tape.setdefault(kernel.name, []).append((kernel, self._fixed + flat, kept))
        return kernel(self._fixed + flat, kept)

    def _find(self, shape: Shape, flat: list[Tensor]) -> tuple[Kernel, Kept]:
        b, n_given = self._bilevel, len(self._given)
        source = Source(b.problem, self._function, self._static, b._nudge is not None, n_given, shape)
        kernel = self._engine.find(source, self._fixed + flat)
        return kernel, kernel.prepare(self._fixed) if kernel.call is not None else []

    def _plain(self, *arguments: Any) -> Any:
        if self._eager is not None:
            return self._eager(*arguments)
        return self._function(self._bilevel.eager(), *self._static, *self._given, *arguments)
