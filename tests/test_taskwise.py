"""Kernels task by task: equal to eager mode on graphs that hypothesis makes up; others are left to torch."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench import native
from bench.compiled import engine, taskwise
from bench.compiled.trace import trace
from tests.test_compiled import TANH, both, compiled, drawn

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
    near = 1e-5 if torch.float32 in {x.dtype for x in inputs} else 1e-12
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=near, atol=near, equal_nan=True)


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
    "product of the transposed": lambda a, b, _: a @ b.movedim(0, -1),
    "outer": lambda a, b, _: a.flatten()[:6, None] * b.flatten()[:5],
    "gram": lambda a, b, _: a.movedim(0, -1) @ a,
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


@settings(deadline=None, max_examples=12, derandomize=True)
@given(steps=programs(), n_tasks=st.integers(1, 3), float32=st.booleans())
def test_random_programs_and_their_gradients(steps, n_tasks, float32) -> None:
    dtype = torch.float32 if float32 else torch.float64
    shapes = [(n_tasks, 3, 4), (n_tasks, 4, 5), (n_tasks, 17), (4,)]
    inputs = [0.5 * numbers(*shape, dtype=dtype) for shape in shapes]
    fits = fitting(steps, [x[0] for x in inputs[:3]] + inputs[3:])

    def both(x: Tensor, *others: Tensor) -> list[Tensor]:
        def total(x: Tensor) -> Tensor:
            return sum((y.sin().mean() for y in program(fits, x, *others)), x.sum())

        return [*program(fits, x, *others), torch.func.grad(total)(x)]

    with suppress(taskwise.UnsupportedError):  # that a graph of ours is none is tested below
        same(both, inputs, shared=[3])


SMALL: dict[str, tuple[One, list[Tensor]]] = {
    "a wide product": (lambda a, b: [a @ b], [numbers(2, 3, 70), numbers(2, 70, 101)]),
    "of columns": (lambda a, b: [a.mT @ b.mT], [numbers(2, 20, 9), numbers(2, 33, 20)]),
    "a product with every second": (lambda a, b: [a @ b[:, ::2].mT], [numbers(2, 5, 8), numbers(2, 7, 16)]),
    "a matrix and a vector": (lambda a, b: [a @ b, b @ a], [numbers(2, 40, 40), numbers(2, 40)]),
    "sums of products": (
        lambda a, b: [a @ b + b @ a, (a @ b) + (a @ a).mT, a @ a + a @ a],
        [numbers(2, 9, 9), numbers(2, 9, 9)],
    ),
    "a product that is read twice": (
        lambda a, b: [torch.cat([(a @ b).flatten(), b.flatten()]), a @ b + 1],
        [numbers(2, 3, 4), numbers(2, 4, 5)],
    ),
    "parts joined twice": (
        lambda a: [torch.cat([2 * a, 3 * a]).flatten(), torch.cat([2 * a, a * a], 1)], [numbers(2, 3, 4)]
    ),
    "nothing joined": (lambda a: [torch.cat([a, a[:0], a * 2])], [numbers(2, 3)]),
    "results that are inputs": (lambda a: [a, a.T, a[:, 1], a.sum(0), a.sum(0)], [numbers(2, 3, 4)]),
    "numbers alone": (
        lambda a: [torch.zeros(3, dtype=a.dtype) + 2, torch.ones_like(a).sum(0)], [numbers(2, 3, 4)]
    ),
    "reductions": (
        lambda a: [a.sum(), a.sum((0, 2)), a.amax((1, 2)), a.amin(0), a.mean(1), (a > 0).sum(0)],
        [numbers(2, 3, 70, 5)],
    ),
    "one number": (lambda a, b: [a * b, (a * b)[None]], [numbers(2), numbers(2)]),
    "padded": (lambda a: [torch.nn.functional.pad(a, (1, -2, -1, 3), value=2.0)], [numbers(2, 4, 6)]),
    "not a number": (
        lambda a: [torch.relu(a), a.amax(0), torch.maximum(a, -a), (a / a).sum(), torch.where(a > 0, a, 0)],
        [torch.tensor([[1.0, torch.nan, torch.inf], [-torch.inf, 0.0, -0.0]])],
    ),
    "powers": (lambda a: [a**0, a**2, a**3, (a * a) ** 0.5, 1 / a, -(a**-1), a.sign()], [numbers(2, 5)]),
    "of booleans": (
        lambda a, b: [(a > b) & ~(a == 1) | (b < 0), (a > 0) * 1.0], [numbers(2, 5), numbers(2, 5)]
    ),
    "types": (
        lambda a, b: [a.float() * b, a + b, (a > 0).double()],
        [numbers(2, 5), numbers(2, 5, dtype=torch.float32)],
    ),
    "labels": (
        lambda a, y: [torch.func.grad(lambda z: cross_entropy(z, y))(a), a.gather(1, y[:, None])],
        [numbers(2, 6, 3), torch.tensor([[0, 1, 2, 2, 1, 0], [2, 2, 2, 0, 0, 0]])],
    ),
    "a long chain": (lambda a: [reduce(lambda x, k: torch.sin(x) + k, range(300), a)], [numbers(2, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_graphs_with_something_special(name: str) -> None:
    function, inputs = SMALL[name]
    for x in (inputs, [x[:1] for x in inputs]):
        same(function, x)


def test_what_tasks_share_may_have_as_many_rows_as_there_are_tasks() -> None:
    same(lambda x, w: [x @ w, x + w.sum(0), w * x], [numbers(4, 4), numbers(4, 4, seed=1)], shared=[1])


LEFT: dict[str, tuple[One, list[Tensor]]] = {
    "an operation": (lambda a: [a.cumsum(0)], [numbers(2, 3)]),
    "a type": (lambda a: [a * 2], [numbers(2, 3).to(torch.bfloat16)]),
    "several products a task": (lambda a: [a @ a], [numbers(2, 3, 4, 4)]),
    "nothing": (lambda a: [a[:0] * 2], [numbers(2, 3)]),
    "size": (lambda a: [a @ a], [numbers(2, 400, 400)]),
}


@pytest.mark.parametrize("name", LEFT)
def test_other_graphs_are_left_to_torch(name: str) -> None:
    function, inputs = LEFT[name]
    with pytest.raises(taskwise.UnsupportedError):
        lowered(function, inputs)


def test_tasks_are_not_mixed() -> None:
    def mixed(x: Tensor) -> tuple[Tensor, ...]:
        return x - x.mean(0), x.T @ x, x[0] * x, x.flip(0)

    x = numbers(3, 3)
    for number in range(4):
        graph, _ = trace(lambda y: (mixed(y)[number],), [x])  # noqa: B023
        with pytest.raises(taskwise.UnsupportedError):
            taskwise.lower(graph, [x], [False], 3)


def test_a_label_out_of_range_gives_no_number() -> None:
    graph, _ = trace(lambda a, y: (a.gather(1, y),), [numbers(2, 3), torch.zeros(2, 2, dtype=torch.int64)])
    run = taskwise.lower(graph, [numbers(2, 3), torch.zeros(2, 2, dtype=torch.int64)], [False, False], 2)
    (found,) = run([numbers(2, 3), torch.tensor([[0, 3], [-1, 2]])])
    assert torch.equal(found.isnan(), torch.tensor([[False, True], [True, False]]))


SOFT = {"name": "mlp", "hidden": [8, 8], "activation": "softplus"}
PROBLEMS = [
    {"name": "sinusoid", "strength": 40.0, "network": SOFT},
    {"name": "linear_regression"},
    {"name": "glyphs", "ways": 3, "queries": 2, "strength": 50.0, "network": {"name": "mlp", "hidden": [8]}},
]  # fmt: skip


@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p["name"])
@pytest.mark.parametrize("method", ["maml", "imaml"])
def test_all_kernels_of_small_problems_are_made_task_by_task(method, problem, n_tasks) -> None:
    inner = {"name": "gradient_descent", "steps": 3, "learning_rate": 0.01}
    found, wanted, report = both({"name": method, "inner": inner}, drawn(problem, n_tasks))
    torch.testing.assert_close(found.meta_grad, wanted.meta_grad, rtol=1e-12, atol=1e-12)
    assert {one.get("lowering") for one in report.values()} == {"task by task"}


def test_threads_change_no_bit(monkeypatch) -> None:
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        fast = compiled(drawn(TANH, 5, dtype=torch.float32))
        found.append(fast.inner_grad(fast.start))
        (only,) = fast.engine.report().values()
        assert only["lowering"] == "task by task"
    assert torch.equal(*found)


def test_without_a_compiler_torch_is_asked(monkeypatch) -> None:
    monkeypatch.setattr(engine, "_kernels", {})
    monkeypatch.setattr(native, "compiler", lambda: None)
    fast = compiled(drawn(TANH))
    fast.inner_grad(fast.start)
    (only,) = fast.engine.report().values()
    assert only["lowering"] == "torch"
