"""What the adapters share: one task as plain functions of a vector, and the estimate made of the tasks."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.api import Bilevel, Estimate, Solution, Vector


class Flat(nn.Module):
    """A function of one flat parameter vector as a module, the form in which libraries want parameters."""

    def __init__(self, phi: Tensor):
        super().__init__()
        self.phi = nn.Parameter(phi.clone())

    def forward(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        return loss(self.phi)


@dataclass(frozen=True)
class OneTask:
    """One task of a two-level problem: ``start`` = theta [P] and its losses without the batch axis."""

    start: Vector
    inner: Callable[[Tensor, Tensor], Tensor]  # (phi, theta) -> G
    query: Callable[[Tensor], Tensor]


def each_task(bilevel: Bilevel) -> Iterator[OneTask]:
    """The tasks one after another."""
    problem, t, strength = bilevel.problem, bilevel.tasks, bilevel.strength
    rows = zip(bilevel.start, t.support_x, t.support_y, t.query_x, t.query_y, strict=True)
    for start, x, y, query_x, query_y in rows:

        def inner(phi: Tensor, theta: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            return problem.support_loss(phi, x, y) + 0.5 * strength * (phi - theta).square().sum()

        def query(phi: Tensor, x: Tensor = query_x, y: Tensor = query_y) -> Tensor:
            return problem.query_loss(phi, x, y)

        yield OneTask(start.detach(), inner, query)


def gather(bilevel: Bilevel, meta_grads: list[Tensor], adapted: list[Tensor], **calls: int) -> Estimate:
    """The estimate of the tasks' rows; ``calls`` are the oracle calls that the library made for each."""
    phi = torch.stack([row.detach() for row in adapted])
    return around(bilevel, meta_grads, Solution(phi, torch.isfinite(phi).all(dim=1), {}), **calls)


def around(bilevel: Bilevel, meta_grads: list[Tensor], inner: Solution, **calls: int) -> Estimate:
    """The same around a solve by our own inner solver, which says itself whether it converged."""
    bilevel.calls.add(**calls)
    return Estimate(torch.stack([row.detach() for row in meta_grads]), *inner)


@contextmanager
def no_functorch_warning() -> Iterator[None]:
    """Keep a warning to the library's authors about their use of torch away from its users' terminals."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "We've integrated functorch into PyTorch", FutureWarning)
        yield
