from dataclasses import dataclass, field
from typing import ClassVar

import torch

from bench.api import Bilevel, Curvature, Estimate, InnerSolver, LinearSolver, Method, Target, finite
from bench.registry import register
from methods.curvature import Exact
from methods.imaml import implicit_gradient
from methods.inner import GradientDescent
from methods.linear import ConjugateGradient

KEY = "imaml-warm-start"


@register("method", "imaml-warm-start")
@dataclass(frozen=True)
class IMAMLWarmStart(Method):
    """iMAML whose linear solve starts from the previous outer step's solution on the same tasks.

    The equations of `imaml`; x_0 of the linear solver is the x that the last call left in `Bilevel.memory`
    (Ji, Yang, Liang 2021; Arbel and Mairal 2022), zero for a task where that is empty or not finite. Exact as
    `imaml` is. An outer step of length s moves the solution by O(s), so that with a tolerance few iterations
    are left to do; the first residual costs one product.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    linear: LinearSolver = field(default_factory=ConjugateGradient)
    curvature: Curvature = field(default_factory=Exact)
    limit: ClassVar[Target | None] = "implicit"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        start = bilevel.memory.get(KEY)
        if start is not None:  # one solve that overflowed must not spoil all later ones
            start = torch.where(finite(start)[:, None], start, 0)
        estimate, x = implicit_gradient(bilevel, self.inner, self.linear, self.curvature, start)
        bilevel.memory[KEY] = x
        return estimate
