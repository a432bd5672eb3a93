from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Tensor

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method
from bench.registry import name_of, register
from methods.inner import GradientDescent
from methods.libraries.per_task import Flat, each_task, gather


@register("method", "maml-learn2learn")
@dataclass(frozen=True)
class MAMLLearn2Learn(Method):
    """Exact MAML by `learn2learn.algorithms.MAML` (Arnold et al. 2020): cloned modules, task after task.

    The unrolled graph of `MAML`; gradient descent only. Exact. learn2learn 0.2.0 ships C files that do not
    compile on Python 3.11 and newer: see the README for the way to install it. Memory K times the
    activations of one task.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    needs: ClassVar[tuple[str, ...]] = ("learn2learn>=0.2", "torchvision")  # for its data sets
    install: ClassVar[str | None] = "build it as the README says under 'Other libraries'"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        if not isinstance(self.inner, GradientDescent):
            raise Declined(f"learn2learn's MAML has no '{name_of(self.inner)}'")
        from learn2learn.algorithms import MAML

        rows, adapted = [], []
        for task in each_task(bilevel):
            maml = MAML(Flat(task.start), lr=self.inner.learning_rate)
            learner, theta = maml.clone(), maml.module.phi
            for _ in range(self.inner.steps):
                learner.adapt(task.inner(cast(Tensor, learner.module.phi), theta))
            rows += torch.autograd.grad(learner(task.query), theta)
            adapted.append(cast(Tensor, learner.module.phi))
        steps = self.inner.steps
        return gather(bilevel, rows, adapted, inner_grads=steps, inner_hvps=steps, outer_grads=1)
