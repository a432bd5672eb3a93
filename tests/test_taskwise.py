"""Kernels task by task: equal to eager mode on whatever graphs hypothesis makes up, and left to torch elsewhere."""

import logging
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench import native
from bench.api import Bilevel
from bench.compiled import Engine, engine, kernel, taskwise
from bench.compiled.taskwise import call
from bench.compiled.trace import trace
from tests.test_compiled import TANH, Odd, drawn

pytestmark = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))

One = Callable[..., Sequence[Tensor]]  # of one task


def lowered(
    function: One, inputs: Sequence[Tensor], shared: Sequence[int] = ()
) -> tuple[Sequence[Tensor], ...]:
    """What the kernel of ``function``, of every task, makes of the inputs, and what torch does."""
    axes = tuple(None if i in shared else 0 for i in range(len(inputs)))
    batch = torch.func.vmap(lambda *x: tuple(function(*x)), in_dims=axes)
    graph, used = trace(batch, inputs)
    n_tasks = next(len(x) for i, x in enumerate(inputs) if i not in shared)
    run = taskwise.lower(graph, [inputs[i] for i in used], [i in shared for i in used], n_tasks)
    return run([inputs[i] for i in used]), batch(*inputs)


def same(function: One, inputs: Sequence[Tensor], shared: Sequence[int] = ()) -> None:
    found, wanted = lowered(function, inputs, shared)
    exact = wanted[0].dtype is not torch.float32
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 1e-5)


def numbers(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


STEPS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "add": lambda a, b, _: a + b,
    "subtract": lambda a, b, k: a - 0.5 * k * b,
    "multiply": lambda a, b, _: a * b,
    "divide": lambda a, b, _: a / (2 + b * b),
    "larger": lambda a, b, _: torch.maximum(a, b),
    "where": lambda a, b, k: torch.where((a > b) & (b <= k), a, b.abs()),
    "tanh": lambda a, b, _: torch.tanh(a),
    "relu": lambda a, b, _: torch.relu(a) - torch.sigmoid(a),
    "roots": lambda a, b, _: (1 + a * a).sqrt() + (1 + a * a).log(),
    "softplus": lambda a, b, _: torch.nn.functional.softplus(a),
    "softmax": lambda a, b, k: torch.log_softmax(a, k % a.ndim),
    "sum": lambda a, b, k: a.sum(k % a.ndim),
    "mean": lambda a, b, k: a.mean(k % a.ndim, keepdim=True),
    "most": lambda a, b, k: a.amax(k % a.ndim),
    "turn": lambda a, b, k: a.movedim(k % a.ndim, 0),
    "flatten": lambda a, b, _: a.flatten(),
    "regroup": lambda a, b, k: a.reshape(-1, *a.shape[:k % a.ndim]),
    "part": lambda a, b, k: a.narrow(k % a.ndim, a.shape[k % a.ndim] // 2, 1),
    "every second": lambda a, b, k: a.movedim(k % a.ndim, 0)[::2],
    "one": lambda a, b, k: a.select(k % a.ndim, -1),
    "join": lambda a, b, k: torch.cat([a, b, a], k % a.ndim),
    "stack": lambda a, b, k: torch.stack([a, b], k % a.ndim),
    "pad": lambda a, b, k: torch.nn.functional.pad(a, (k, 1)),
    "product": lambda a, b, _: a @ b,
    "product of the transposed": lambda a, b, _: a @ b.mT,
    "outer": lambda a, b, _: a.flatten()[:6, None] * b.flatten()[:5],
    "gram": lambda a, b, _: a.mT @ a,
}  # fmt: skip
LARGEST = 400  # numbers in a tensor


@st.composite
def programs(draw) -> list[tuple[str, int, int, int]]:
    """Names of `STEPS`, with the numbers of two operands and a number."""
    step = st.tuples(
        st.sampled_from(sorted(STEPS)), st.integers(0, 30), st.integers(0, 30), st.integers(0, 2)
    )
    return draw(st.lists(step, min_size=8, max_size=20))


def program(steps: Sequence[tuple[str, int, int, int]], *inputs: Tensor) -> list[Tensor]:
    """All that the steps make of what there is so far."""
    pool = list(inputs)
    for name, i, j, k in steps:
        new = STEPS[name](pool[i % len(pool)], pool[j % len(pool)], k)
        pool.append(torch.tanh(new) if new.numel() > 50 else new)
    return pool[len(inputs) :]


def fitting(steps: Sequence[tuple[str, int, int, int]], inputs: Sequence[Tensor]) -> list:
    """The steps that fit their operands."""
    kept: list = []
    for step in steps:
        try:
            new = program([*kept, step], *inputs)[-1]
        except (RuntimeError, IndexError, ZeroDivisionError):
            continue
        if 0 < new.numel() <= LARGEST:
            kept.append(step)
    return kept


@settings(deadline=None, max_examples=15, derandomize=True)
@given(steps=programs(), n_tasks=st.integers(1, 3), float32=st.booleans())
def test_random_programs_and_their_gradients(steps, n_tasks, float32) -> None:
    dtype = torch.float32 if float32 else torch.float64
    inputs = [0.5 * numbers(*s, dtype=dtype) for s in [(n_tasks, 3, 4), (n_tasks, 4, 5), (n_tasks, 17), (4,)]]
    steps = fitting(steps, [x[0] for x in inputs[:3]] + inputs[3:])

    def both(x: Tensor, *others: Tensor) -> list[Tensor]:
        def total(x: Tensor) -> Tensor:
            return sum((y.sin().mean() for y in program(steps, x, *others)), x.sum())

        return [*program(steps, x, *others), torch.func.grad(total)(x)]

    try:
        same(both, inputs, shared=[3])
    except taskwise.UnsupportedError as error:
        assert n_tasks == 1 or "matrices" in str(error) or "aten" in str(error), error
