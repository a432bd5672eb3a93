"""The small problems and linear systems that the batteries run on."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from bench.api import Bilevel, Problem
from bench.registry import build

Home = Callable[..., Bilevel]  # a problem of `n_tasks` tasks with `support` examples each


def draw(problem: Problem, n_tasks: int, seed: int = 0) -> Bilevel:
    """A float64 batch of ``n_tasks`` tasks and initial meta-parameters, from ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    return Bilevel(problem, problem.sample(generator, n_tasks), problem.init(generator))


def regression(n_tasks: int = 3, **fields: Any) -> Bilevel:
    """Three tasks of linear regression in 8 dimensions: the closed-form test problem."""
    return draw(build("problem", {"name": "linear_regression", "dim": 8, "support": 5, **fields}), n_tasks)


def sinusoid(n_tasks: int = 2) -> Bilevel:
    """Two sinusoid tasks on a small smooth network: the curved test problem."""
    return sinusoids(n_tasks)


def sinusoids(n_tasks: int = 3, support: int = 10) -> Bilevel:
    """Three tasks like that of `sinusoid`, for methods that do not serve linear regression."""
    network = {"name": "mlp", "hidden": [6, 6], "activation": "tanh"}
    return draw(build("problem", {"name": "sinusoid", "network": network, "shots": support}), n_tasks)


def stationary(home: Callable[[], Bilevel] = regression) -> Bilevel:
    """Tasks of ``home`` whose support and query gradients vanish at the meta-parameters."""
    bilevel = home()
    tasks, meta, problem = bilevel.tasks, bilevel.meta, bilevel.problem
    targets = [torch.stack([problem.outputs(meta, x) for x in xs]) for xs in (tasks.support_x, tasks.query_x)]
    return Bilevel(problem, replace(tasks, support_y=targets[0], query_y=targets[1]), meta)


def system(
    condition: float, indefinite: bool = False, size: int = 12, singular: bool = False
) -> tuple[Tensor, Tensor]:
    """Three random symmetric systems [3, size, size], [3, size] with eigenvalues from 1/condition to 1.

    Every other eigenvalue is negative if ``indefinite``; the last is 0, so that no x solves, if ``singular``.
    """
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(3, size, size, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), size, dtype=torch.float64)
    if indefinite:
        values = torch.where(torch.arange(size) % 2 == 0, values, -values)
    if singular:
        values[-1] = 0
    rhs = torch.randn(3, size, generator=generator, dtype=torch.float64)
    return (basis * values) @ basis.mT, rhs


def product(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The matvec of a batch of matrices; a plain sum, so that its bits do not depend on the batch."""
    return lambda v: (matrix * v.unsqueeze(-2)).sum(dim=-1)


def central(f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, h: float) -> Tensor:
    """Central finite difference of f at x along ``direction``."""
    return (f(x + h * direction) - f(x - h * direction)) / (2 * h)


def same_tasks(one: Bilevel, other: Bilevel) -> bool:
    """Whether two batches hold the same tasks, bit for bit."""
    pairs = ((getattr(one.tasks, f.name), getattr(other.tasks, f.name)) for f in fields(one.tasks))
    return all(torch.equal(a, b) for a, b in pairs)


def draws(tasks: Sequence[int], like: Tensor, seed: int = 0) -> Callable[[int], Tensor]:
    """`Bilevel.noise` for systems: a row depends on its task's index, on the number and on ``seed`` alone."""

    def noise(number: int) -> Tensor:
        seeds = (1_000_003 * seed + 1009 * task + number for task in tasks)
        generators = (torch.Generator().manual_seed(s) for s in seeds)
        rows = [torch.randn(like.shape[1], generator=g, dtype=torch.float64) for g in generators]
        return torch.stack(rows).to(like)

    return noise
