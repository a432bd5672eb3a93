from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method
from bench.registry import name_of, register
from methods.inner import Adam, GradientDescent, Momentum


class _Loss(nn.Module):
    """A loss of one flat parameter vector as a module, the form in which `higher` patches parameters."""

    def __init__(self, phi: Tensor):
        super().__init__()
        self.phi = nn.Parameter(phi)

    def forward(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        return loss(self.phi)


def _optimizer(inner: InnerSolver, parameters) -> torch.optim.Optimizer:
    if isinstance(inner, GradientDescent):
        return torch.optim.SGD(parameters, lr=inner.learning_rate)
    if isinstance(inner, Momentum):
        return torch.optim.SGD(parameters, lr=inner.learning_rate, momentum=inner.momentum)
    if isinstance(inner, Adam):
        betas = (inner.beta1, inner.beta2)
        return torch.optim.Adam(parameters, lr=inner.learning_rate, betas=betas, eps=inner.epsilon)
    raise Declined(f"higher has no differentiable '{name_of(inner)}'")


@register("method", "maml-higher")
@dataclass(frozen=True)
class MAMLHigher(Method):
    """Exact MAML by the library `higher` (Grefenstette et al. 2019): a patched module, task after task.

    The unrolled graph of `MAML`, built by `higher.innerloop_ctx`. Exact with gradient descent and momentum.
    With Adam, higher 0.2.1 misplaces epsilon and its meta-gradient is wrong by some per cent; it is run as
    it is. Memory K times the activations of one task.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        import higher

        problem, tasks, strength = bilevel.problem, bilevel.tasks, bilevel.strength
        steps = getattr(self.inner, "steps", 0)
        rows, adapted = [], []
        for t, start in enumerate(bilevel.start):
            module = _Loss(start.clone())
            meta = module.phi

            def inner_loss(phi: Tensor, t: int = t, meta: Tensor = meta) -> Tensor:
                support = problem.support_loss(phi, tasks.support_x[t], tasks.support_y[t])
                return support + 0.5 * strength * (phi - meta).square().sum()

            def outer_loss(phi: Tensor, t: int = t) -> Tensor:
                return problem.query_loss(phi, tasks.query_x[t], tasks.query_y[t])

            optimizer = _optimizer(self.inner, module.parameters())
            with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (patched, stepper):
                for _ in range(steps):
                    stepper.step(patched(inner_loss))
                rows += torch.autograd.grad(patched(outer_loss), meta)
                adapted += [p.detach() for p in patched.parameters()]
        bilevel.calls.inner_grads += steps
        bilevel.calls.inner_hvps += steps
        bilevel.calls.outer_grads += 1
        phi = torch.stack(adapted)
        return Estimate(torch.stack(rows), phi, torch.isfinite(phi).all(dim=1), {})
