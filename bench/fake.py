"""The peak of a method's tensors without its numbers: a run on fake tensors, which have shapes and no data.

In a process of its own: a run can be ended in the middle, an exception inside torch's autograd can end the
process, and whatever a plugin remembers of fake tensors dies with it.
"""

import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from bench import registry
from bench.api import Bilevel, Tasks
from bench.at_once import asked, estimate
from bench.inputs import dtype_of
from bench.measure import TensorBytes
from bench.processes import die_with_parent

# A copy of this process begins at once, with torch imported. A lock that it may inherit costs it its time.
_FORK = multiprocessing.get_context("fork")


class _GoOn(TorchDispatchMode):
    """Answers what a loop asks of its tasks as if none were done: yes to ``any()``, no to ``all()``.

    So the loop runs to the end of its iterations, and its peak is at least that of any real run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._answers = WeakIdKeyDictionary()  # by identity: tensors compare elementwise

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0] in self._answers:
            return self._answers[args[0]]
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.any.default, torch.ops.aten.all.default):
            self._answers[result] = func is torch.ops.aten.any.default
        return result


class Faker:
    """Predicts peaks, one after another, in a process that is begun when it is needed; see `faker`.

    With a torch built for CUDA only as long as the process that asks has not gone backward itself: autograd
    then has threads, and refuses to work in a copy without them.
    """

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection | None = None

    def peak(self, description: dict[str, Any], seconds: float) -> int | None:
        """Peak bytes of the tensors of one call of a cell's method, its inputs included.

        Solvers are taken to run all their iterations. None where it cannot be told without numbers, in
        ``seconds``, or with what this machine has. A compiled cell counts as in eager mode.
        """
        deadline = time.monotonic() + seconds
        if self._pipe is None:
            self._begin()
        assert self._pipe is not None
        try:
            self._pipe.send(description)
            if self._pipe.poll(max(0.0, deadline - time.monotonic())):
                return self._pipe.recv()
        except (EOFError, OSError):  # it has died of this cell
            pass
        self.end()
        return None

    def end(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process.close()
            self._pipe = None

    def _begin(self) -> None:
        with FakeTensorMode():
            torch.empty(2).add(1)  # what torch imports at the first use is then there for every copy
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_answer, args=(theirs,), name="metabench-faker")
        with warnings.catch_warnings():
            # JAX, where it is loaded, warns of every fork, for its threads' locks. Nothing here calls it.
            warnings.simplefilter("ignore", RuntimeWarning)
            self._process.start()
        theirs.close()


@contextmanager
def faker() -> Iterator[Faker]:
    """A `Faker` for the block."""
    one = Faker()
    try:
        yield one
    finally:
        one.end()


def _answer(pipe: Connection) -> None:
    """The life of the process: a description in, a peak or None out."""
    die_with_parent()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)  # of plugins, and of torch when it dies
    torch.set_num_threads(1)
    while True:
        try:
            description = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            pipe.send(fake_peak(description))
        except Exception:  # noqa: BLE001  whatever a plugin or torch raises: there is no prediction
            pipe.send(None)


def fake_peak(description: dict[str, Any]) -> int | None:
    """The same in this process; raises what plugins and torch raise. One task is drawn, for its shapes."""
    problem = registry.build("problem", description["problem"])
    method = registry.build("method", description["method"])
    parts = (part for whole in (problem, method) for part in registry.parts(whole))
    if not method.in_torch or any(registry.unavailable(part) for part in parts):
        return None
    dtype, generator = dtype_of(description), torch.Generator().manual_seed(0)
    meta = problem.init(generator)
    task = problem.sample(generator, 1, description["split"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        tasks = Tasks(*(_like(x, description["n_tasks"], dtype) for x in _parts(task)))
        bilevel = Bilevel(problem, tasks, torch.empty(meta.shape, dtype=dtype))
        with TensorBytes() as meter, _GoOn():
            estimate(method, bilevel, asked(description, problem, method))
    return meter.peak + sum(x.nbytes for x in _parts(tasks)) + meta.numel() * dtype.itemsize


def _parts(tasks: Tasks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y


def _like(x: Tensor, n_tasks: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((n_tasks, *x.shape[1:]), dtype=dtype if x.is_floating_point() else x.dtype)
