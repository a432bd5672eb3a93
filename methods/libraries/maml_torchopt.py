from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method
from bench.registry import name_of, register
from methods.inner import Adam, GradientDescent, Momentum
from methods.libraries.per_task import Flat, each_task, gather


def _optimizer(inner: InnerSolver, module: Flat) -> Any:
    import torchopt

    if isinstance(inner, GradientDescent | Momentum):
        momentum = inner.momentum if isinstance(inner, Momentum) else 0.0
        return torchopt.MetaSGD(module, lr=inner.learning_rate, momentum=momentum)
    if isinstance(inner, Adam):
        betas = (inner.beta1, inner.beta2)
        return torchopt.MetaAdam(module, lr=inner.learning_rate, betas=betas, eps=inner.epsilon)
    raise Declined(f"torchopt has no differentiable '{name_of(inner)}' here")


@register("method", "maml-torchopt")
@dataclass(frozen=True)
class MAMLTorchOpt(Method):
    """Exact MAML by TorchOpt's MetaSGD and MetaAdam (Ren et al. 2023), task after task.

    The unrolled graph of `MAML`. Exact with gradient descent and momentum; its Adam differs from ours and
    torch's by some 1e-6 (float64). Memory K times the activations of one task.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    needs: ClassVar[tuple[str, ...]] = ("torchopt>=0.7.3",)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        steps = getattr(self.inner, "steps", 0)
        rows, adapted = [], []
        for task in each_task(bilevel):
            module = Flat(task.start)
            theta, optimizer = module.phi, _optimizer(self.inner, module)
            for _ in range(steps):
                optimizer.step(task.inner(module.phi, theta))
            rows += torch.autograd.grad(module(task.query), theta)
            adapted.append(module.phi)
        return gather(bilevel, rows, adapted, inner_grads=steps, inner_hvps=steps, outer_grads=1)
