"""The peak of a method's tensors without its numbers: a run on fake tensors, which have shapes and no data."""

import time
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench import registry
from bench.api import Bilevel, Method, Problem, Tasks
from bench.inputs import dtype_of
from bench.measure import TensorBytes


class _LateError(Exception):
    """The run took longer than it was given."""


class _Deadline(TorchDispatchMode):
    """Ends the run inside the block at a moment of `time.monotonic`."""

    def __init__(self, moment: float):
        super().__init__()
        self._moment = moment

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if time.monotonic() > self._moment:
            raise _LateError
        return func(*args, **(kwargs or {}))


def fake_peak(description: dict[str, Any], problem: Problem, method: Method, seconds: float) -> int | None:
    """Peak bytes of the tensors of one call of ``method``, its inputs included.

    None where that cannot be told without numbers (a solver that looks at its residual), in ``seconds``, or
    with the packages at hand. One task is drawn for its shapes. A compiled cell counts as in eager mode.
    """
    if not method.in_torch:
        return None
    if any(registry.unavailable(part) for whole in (problem, method) for part in registry.parts(whole)):
        return None
    deadline = time.monotonic() + seconds
    dtype, generator = dtype_of(description), torch.Generator().manual_seed(0)
    try:
        meta = problem.init(generator)
        task = problem.sample(generator, 1, description["split"])
        with FakeTensorMode(allow_non_fake_inputs=True):
            tasks = Tasks(*(_like(x, description["n_tasks"], dtype) for x in _parts(task)))
            bilevel = Bilevel(problem, tasks, torch.empty(meta.shape, dtype=dtype))
            with TensorBytes() as meter, _Deadline(deadline):
                method(bilevel)
    except Exception:  # noqa: BLE001  whatever a plugin or torch raises: there is no prediction
        return None
    inputs = sum(x.nbytes for x in _parts(tasks)) + meta.numel() * dtype.itemsize
    return meter.peak + inputs


def _parts(tasks: Tasks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tasks.support_x, tasks.support_y, tasks.query_x, tasks.query_y


def _like(x: Tensor, n_tasks: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((n_tasks, *x.shape[1:]), dtype=dtype if x.is_floating_point() else x.dtype)
