"""The two-level problem of one batch of tasks at one meta-parameter vector: all that a method sees."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from bench.counts import Counts
from bench.plugin import Declined
from bench.products import FusedProduct, GaussNewtonProduct, HessianProduct
from bench.tasks import PerTask, Problem, Tasks, Vector, Vectors


@runtime_checkable
class Engine(Protocol):
    """What makes one kernel of a function of a `Bilevel` and tensors: see `bench.compiled`."""

    def kernel(
        self,
        bilevel: "Bilevel",
        function: Callable,
        *static: Any,
        given: tuple[Tensor, ...] = (),
        eager: Callable | None = None,
    ) -> Callable:
        """``function(bilevel, *static, *given, *tensors)`` as a function of the tensors.

        ``eager`` is what does the same without compilation; the plain call unless told.
        """
        ...


class Bilevel:
    """Oracles of the inner objective G = support loss + strength / 2 ||phi - meta||^2 and the query loss.

    ``phi`` is [T, P], one row per task; values are [T]. ``meta`` is [P], or [T, P] to give every task its own
    copy. Gradients are tracked by autograd exactly where the given ``phi`` or ``meta`` asks for it
    (``requires_grad``); otherwise each call frees what it built. Costs are counted in ``calls``.

    ``seeds`` names every task for `noise`. ``memory`` is what a method may leave for the next outer step on
    the same tasks; empty unless the outer loop hands one on. ``engine`` compiles what goes through `fused`
    and the oracles; None runs them in eager mode.
    """

    def __init__(
        self,
        problem: Problem,
        tasks: Tasks,
        meta: Vector | Vectors,
        calls: Counts | None = None,
        seeds: Sequence[int] | None = None,
        memory: dict[str, Vectors] | None = None,
        engine: Engine | None = None,
    ):
        self.problem = problem
        self.tasks = tasks
        self.meta = meta
        self.strength = float(problem.strength)
        self.calls = Counts() if calls is None else calls
        self.seeds = tuple(range(len(tasks))) if seeds is None else tuple(seeds)
        self.memory = {} if memory is None else memory
        self.engine = engine
        self._weight = 1  # calls of a task that each call on the batch stands for
        self._nudge: PerTask | None = None

    @property
    def start(self) -> Vectors:
        """``meta`` for every task: [T, P]."""
        return self.meta.expand(len(self.tasks), -1).contiguous()

    def at(self, meta: Vector | Vectors) -> "Bilevel":
        """The same tasks and the same counters at another ``meta``."""
        return self._like(self.tasks, meta, self.seeds)

    def take(self, order: Sequence[int] | slice) -> "Bilevel":
        """These tasks, in this order, with their own counters and an empty ``memory``."""
        index = order if isinstance(order, slice) else torch.tensor(order)  # a slice copies no data
        meta = self.meta if self.meta.ndim == 1 else self.meta[index]
        seeds = self.seeds[order] if isinstance(order, slice) else [self.seeds[i] for i in order]
        return Bilevel(self.problem, self.tasks[index], meta, seeds=seeds, engine=self.engine)

    def one(self, task: int) -> "Bilevel":
        """Task number ``task`` alone, as a batch of one with its own counters."""
        return self.take([task])

    def to(self, dtype: torch.dtype) -> "Bilevel":
        """The same problem, cast, with its own counters."""
        tasks, meta = self.tasks.to(dtype=dtype), self.meta.to(dtype)
        return Bilevel(self.problem, tasks, meta, seeds=self.seeds, engine=self.engine)

    def repeat(self, times: int) -> "Bilevel":
        """The whole batch ``times`` over, [times * T, P], for oracles at several points per task at once.

        The counters are shared: a call here counts ``times`` calls of every task.
        """
        index = torch.arange(len(self.tasks)).repeat(times)
        meta = self.meta if self.meta.ndim == 1 else self.meta[index]
        many = self._like(self.tasks[index], meta, self.seeds * times)
        many._weight = times * self._weight
        many._nudge = None if self._nudge is None else self._nudge[index]
        return many

    def eager(self) -> "Bilevel":
        """The same problem with the same counters and no engine."""
        other = self.at(self.meta)
        other.engine = None
        return other

    def nudged(self, nudge: PerTask) -> "Bilevel":
        """The same problem with the inner objective G + nudge * query loss; the counters are shared.

        A gradient of it counts as one of each loss, a product as two.
        """
        other = self.at(self.meta)
        other._nudge = nudge
        return other

    def _like(self, tasks: Tasks, meta: Vector | Vectors, seeds: Sequence[int]) -> "Bilevel":
        other = Bilevel(self.problem, tasks, meta, self.calls, seeds, self.memory, self.engine)
        other._weight, other._nudge = self._weight, self._nudge
        return other

    def fused(self, function: Callable, *static: Any) -> Callable:
        """``function(self, *static, *arguments)`` as a function of the arguments, as one kernel if compiled.

        For the body of a loop: an inner step, an adjoint step. ``function`` is defined at the top of a module
        and ``static`` are plugins and constants: together they name the kernel. Arguments and results are
        tensors with the task axis first, tuples of them, or (arguments) numbers; what varies from call to
        call is an argument. Calls are counted as if the function were called.
        """
        if self.engine is None:
            return partial(function, self, *static)
        return self.engine.kernel(self, function, *static)

    def noise(self, number: int) -> Vectors:
        """Standard normal numbers [T, P]; a row depends on its task's seed and on ``number`` alone."""
        rows = []
        for seed in self.seeds:
            digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            rows.append(torch.randn(self.meta.shape[-1], generator=generator, dtype=torch.float64))
        return torch.stack(rows).to(self.meta.device, self.meta.dtype)

    def inner_value(self, phi: Vectors) -> PerTask:
        """G(phi) of every task."""
        self._spend(inner_values=1)
        losses = self._batch(self.problem.support_loss, phi, self.tasks.support_x, self.tasks.support_y)
        if self._nudge is not None:
            losses = losses + self._nudge * self.outer_value(phi)
        return losses + 0.5 * self.strength * (phi - self.meta).square().sum(dim=1)

    def inner_grad(self, phi: Vectors) -> Vectors:
        """Gradient of G in phi."""
        if self.engine is not None:
            return self.engine.kernel(self, Bilevel.inner_grad)(phi)
        self._spend(inner_grads=1)
        return self._loss_grad(phi, create_graph=phi.requires_grad) + self.strength * (phi - self.meta)

    def inner_hvp(self, phi: Vectors) -> HessianProduct | FusedProduct:
        """The map v -> Hessian of G at phi times v. Linearised once (one gradient), then a call a product."""
        self._spend(inner_grads=1)
        if self.engine is not None:
            return FusedProduct(partial(self.engine.kernel, self), self.eager().linearise, phi)
        return self.linearise(phi)

    def linearise(self, phi: Vectors) -> HessianProduct:
        """`inner_hvp` in eager mode, its gradient not counted."""
        with torch.enable_grad():
            leaf = phi.detach().requires_grad_()
            graph = self._loss_grad(leaf, create_graph=True)
        pull = self.strength * (phi.detach() - self.meta.detach())
        return HessianProduct(leaf, graph, pull, self.strength, self._spend_product)

    def inner_grad_and_hvp(self, phi: Vectors, v: Vectors) -> tuple[Vectors, Vectors]:
        """Gradient of G at phi and its derivative along v, by forward over reverse mode.

        Without a graph of the gradient: memory of one gradient and its tangents, for a single v.
        """
        if self.engine is not None:
            return self.engine.kernel(self, Bilevel.inner_grad_and_hvp)(phi, v)
        self._spend(inner_grads=1, outer_grads=0 if self._nudge is None else 1)
        self._spend_product()
        phi = phi.detach()
        if self.problem.batching == "vmap":
            parts = [slice(None)]
        else:
            parts = [slice(t, t + 1) for t in range(len(phi))]  # one task's graph alive at a time
        rows = [torch.func.jvp(lambda p, i=i: self._loss_grad_func(p, i), (phi[i],), (v[i],)) for i in parts]
        grad, hv = (torch.cat([row[number] for row in rows]) for number in (0, 1))
        return grad + self.strength * (phi - self.meta), hv + self.strength * v

    def gauss_newton(self, phi: Vectors) -> GaussNewtonProduct:
        """The map v -> (J' loss'' J + strength I) v at phi, where the problem has `outputs`; one forward."""
        if self._nudge is not None:
            raise Declined("no Gauss-Newton products of a nudged objective")
        t, problem = self.tasks, self.problem
        with torch.enable_grad():
            leaf = phi.detach().requires_grad_()
            outputs = self._batch(problem.outputs, leaf, t.support_x)
        return GaussNewtonProduct(
            leaf,
            outputs,
            lambda z: self._batch(problem.output_loss, z, t.support_y),
            self.strength,
            self._spend_product,
        )

    def cross(self, phi: Vectors, v: Vectors) -> Vectors:
        """(d/d meta of inner_grad)^T v. Only the proximal term depends on meta: -strength v."""
        return -self.strength * v

    def outer_value(self, phi: Vectors) -> PerTask:
        """Query loss of every task."""
        self._spend(outer_values=1)
        return self._batch(self.problem.query_loss, phi, self.tasks.query_x, self.tasks.query_y)

    def outer_grad(self, phi: Vectors) -> Vectors:
        """Gradient of the query loss in phi."""
        if self.engine is not None:
            return self.engine.kernel(self, Bilevel.outer_grad)(phi)
        self._spend(outer_grads=1)
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
        if self._nudge is not None:
            raise Declined("a closed form is the minimiser of G, not of the nudged G + nu query loss")
        return self.problem.inner_solution(self.start, self.tasks)

    def _spend(self, **calls: int) -> None:
        self.calls.add(**{name: self._weight * number for name, number in calls.items()})

    def _spend_product(self) -> None:
        self._spend(inner_hvps=1 if self._nudge is None else 2)

    def _loss_grad(self, phi: Vectors, create_graph: bool) -> Vectors:
        """Gradient of the support loss, and of the nudge; G without its proximal term."""
        t = self.tasks
        grad = self._grad(self.problem.support_loss, phi, t.support_x, t.support_y, create_graph)
        if self._nudge is None:
            return grad
        self._spend(outer_grads=1)
        query = self._grad(self.problem.query_loss, phi, t.query_x, t.query_y, create_graph)
        return grad + self._nudge[:, None] * query

    def _loss_grad_func(self, phi: Vectors, which: slice) -> Vectors:
        """The same for some tasks as a function that `torch.func` can differentiate."""
        t, nudge = self.tasks[which], self._nudge

        def total(p: Vectors) -> Tensor:
            losses = self._batch(self.problem.support_loss, p, t.support_x, t.support_y)
            if nudge is not None:
                query = self._batch(self.problem.query_loss, p, t.query_x, t.query_y)
                losses = losses + nudge[which] * query
            return losses.sum()

        return torch.func.grad(total)(phi)

    def _batch(self, function: Callable, *batched: Tensor) -> Tensor:
        """``function`` of one task, on every task."""
        if self.problem.batching == "vmap":
            return torch.vmap(function)(*batched)
        return torch.stack([function(*one) for one in zip(*batched, strict=True)])

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
