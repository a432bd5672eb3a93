from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method
from bench.registry import name_of, register
from methods.inner import Adam, GradientDescent, Momentum
from methods.libraries.per_task import Flat, each_task, gather


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
    With Adam it has a `known_fault`. Memory K times the activations of one task.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    needs: ClassVar[tuple[str, ...]] = ("higher>=0.2.1",)

    def known_fault(self) -> str | None:
        if not isinstance(self.inner, Adam):
            return None
        return "higher 0.2.1 misplaces Adam's epsilon, in its steps and in their derivatives"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        import higher

        steps = getattr(self.inner, "steps", 0)
        rows, adapted = [], []
        for task in each_task(bilevel):
            module = Flat(task.start)
            theta = module.phi

            def inner_loss(phi: Tensor, task=task, theta: Tensor = theta) -> Tensor:
                return task.inner(phi, theta)

            optimizer = _optimizer(self.inner, module.parameters())
            with higher.innerloop_ctx(module, optimizer, copy_initial_weights=False) as (patched, stepper):
                for _ in range(steps):
                    stepper.step(patched(inner_loss))
                rows += torch.autograd.grad(patched(task.query), theta)
                adapted += list(patched.parameters())
        return gather(bilevel, rows, adapted, inner_grads=steps, inner_hvps=steps, outer_grads=1)
