"""The two-level problem of one batch of tasks at one meta-parameter vector: all that a method sees."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from bench.tasks import PerTask, Problem, Tasks, Vector, Vectors


@dataclass
class Counts:
    """Oracle calls per task: the hardware-free cost. A call on a batch of tasks counts once."""

    inner_values: int = 0
    inner_grads: int = 0
    inner_hvps: int = 0
    outer_values: int = 0
    outer_grads: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class HessianProduct:
    """The linear map v -> (Hessian of G at phi) v, of every task; ``gradient`` comes with the linearisation.

    Reverse over reverse: the graph of the gradient is built once and serves every product.
    """

    def __init__(self, bilevel: "Bilevel", phi: Vectors):
        self._bilevel = bilevel
        with torch.enable_grad():
            self._phi = phi.detach().requires_grad_()
            self._gradient = bilevel._support_grad(self._phi, create_graph=True)
        pull = bilevel.strength * (phi.detach() - bilevel.meta.detach())
        self.gradient: Vectors = self._gradient.detach() + pull
        bilevel.calls.inner_grads += 1

    def __call__(self, v: Vectors) -> Vectors:
        self._bilevel.calls.inner_hvps += 1
        product = self._bilevel.strength * v
        if self._gradient.requires_grad:  # false where the support loss is linear
            (hv,) = torch.autograd.grad(
                self._gradient, self._phi, v, retain_graph=True, materialize_grads=True
            )
            product = product + hv
        return product


class Bilevel:
    """Oracles of the inner objective G = support loss + strength / 2 ||phi - meta||^2 and the query loss.

    ``phi`` is [T, P], one row per task; values are [T]. ``meta`` is [P], or [T, P] to give every task its own
    copy. Gradients are tracked by autograd exactly where the given ``phi`` or ``meta`` asks for it
    (``requires_grad``); otherwise each call frees what it built. Costs are counted in ``calls``.
    """

    def __init__(self, problem: Problem, tasks: Tasks, meta: Vector | Vectors, calls: Counts | None = None):
        self.problem = problem
        self.tasks = tasks
        self.meta = meta
        self.strength = float(problem.strength)
        self.calls = Counts() if calls is None else calls

    @property
    def start(self) -> Vectors:
        """``meta`` for every task: [T, P]."""
        return self.meta.expand(len(self.tasks), -1).contiguous()

    def at(self, meta: Vector | Vectors) -> "Bilevel":
        """The same tasks and the same counters at another ``meta``."""
        return Bilevel(self.problem, self.tasks, meta, self.calls)

    def one(self, task: int) -> "Bilevel":
        """Task number ``task`` alone, as a batch of one with its own counters."""
        meta = self.meta if self.meta.ndim == 1 else self.meta[task : task + 1]
        return Bilevel(self.problem, self.tasks[task : task + 1], meta)

    def to(self, dtype: torch.dtype) -> "Bilevel":
        """The same problem, cast, with its own counters."""
        return Bilevel(self.problem, self.tasks.to(dtype=dtype), self.meta.to(dtype))

    def inner_value(self, phi: Vectors) -> PerTask:
        """G(phi) of every task."""
        self.calls.inner_values += 1
        losses = self._batch(self.problem.support_loss, phi, self.tasks.support_x, self.tasks.support_y)
        return losses + 0.5 * self.strength * (phi - self.meta).square().sum(dim=1)

    def inner_grad(self, phi: Vectors) -> Vectors:
        """Gradient of G in phi."""
        self.calls.inner_grads += 1
        return self._support_grad(phi, create_graph=phi.requires_grad) + self.strength * (phi - self.meta)

    def inner_hvp(self, phi: Vectors) -> HessianProduct:
        """The map v -> Hessian of G at phi times v. Linearised once (one gradient), then a call a product."""
        return HessianProduct(self, phi)

    def cross(self, phi: Vectors, v: Vectors) -> Vectors:
        """(d/d meta of inner_grad)^T v. Only the proximal term depends on meta: -strength v."""
        return -self.strength * v

    def outer_value(self, phi: Vectors) -> PerTask:
        """Query loss of every task."""
        self.calls.outer_values += 1
        return self._batch(self.problem.query_loss, phi, self.tasks.query_x, self.tasks.query_y)

    def outer_grad(self, phi: Vectors) -> Vectors:
        """Gradient of the query loss in phi."""
        self.calls.outer_grads += 1
        return self._grad(
            self.problem.query_loss,
            phi,
            self.tasks.query_x,
            self.tasks.query_y,
            create_graph=phi.requires_grad,
        )

    def outer_accuracy(self, phi: Vectors) -> PerTask | None:
        """Share of query examples classified rightly, per task; None if the problem is no classification."""
        t = self.tasks
        rows = [
            self.problem.query_accuracy(p, x, y) for p, x, y in zip(phi, t.query_x, t.query_y, strict=True)
        ]
        known = [row for row in rows if row is not None]
        return torch.stack(known) if known else None

    def inner_solution(self) -> Vectors | None:
        """The exact minimiser of G where the problem knows it in closed form, else None."""
        return self.problem.inner_solution(self.start, self.tasks)

    def _support_grad(self, phi: Vectors, create_graph: bool) -> Vectors:
        t = self.tasks
        return self._grad(self.problem.support_loss, phi, t.support_x, t.support_y, create_graph)

    def _batch(self, loss: Callable, phi: Vectors, x: Tensor, y: Tensor) -> PerTask:
        if self.problem.batching == "vmap":
            return torch.vmap(loss)(phi, x, y)
        return torch.stack([loss(*one) for one in zip(phi, x, y, strict=True)])

    def _grad(self, loss: Callable, phi: Vectors, x: Tensor, y: Tensor, create_graph: bool) -> Vectors:
        # Differentiating the batched loss from outside keeps every derivative out of vmap: faster than
        # vmap(grad(loss)) in eager mode, and free of its fault with F.batch_norm.
        with torch.enable_grad():
            if create_graph:
                total = self._batch(loss, phi, x, y).sum()
                return torch.autograd.grad(total, phi, create_graph=True, materialize_grads=True)[0]
            if self.problem.batching == "vmap":
                leaf = phi.detach().requires_grad_()
                total = self._batch(loss, leaf, x, y).sum()
                return torch.autograd.grad(total, leaf, materialize_grads=True)[0]
            rows = []  # one task's graph alive at a time
            for one_phi, one_x, one_y in zip(phi.detach(), x, y, strict=True):
                leaf = one_phi.clone().requires_grad_()
                rows += torch.autograd.grad(loss(leaf, one_x, one_y), leaf, materialize_grads=True)
            return torch.stack(rows)
