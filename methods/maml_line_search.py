from dataclasses import dataclass, field

import torch

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method
from bench.registry import name_of, register
from methods.inner import LBFGS, Armijo


@register("method", "maml-line-search")
@dataclass(frozen=True)
class MAMLLineSearch(Method):
    """MAML unrolled through an inner solver that searches for its step lengths t, each t taken as a constant.

    meta_grad = d/d theta query_loss(phi_K(theta)) by autograd; a direction is differentiated as a function of
    theta, the comparisons that halve t are not. A backtracked t is one of first / 2^j, so its derivative
    is 0 wherever it exists: the estimate is the exact derivative of the map between the values of theta
    at which a search decides otherwise, and knows nothing of the jumps there. Memory grows with K.
    Needs `armijo` or `lbfgs`; declines others: the derivative of Hessian-free's direction takes third
    derivatives.
    """

    inner: InnerSolver = field(default_factory=Armijo)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        if not isinstance(self.inner, Armijo | LBFGS):
            raise Declined(f"inner solver '{name_of(self.inner)}' is not unrolled; use 'armijo' or 'lbfgs'")
        with torch.enable_grad():
            meta = bilevel.start.detach().clone().requires_grad_()
            adapted, converged, stats = self.inner(bilevel.at(meta), meta)
            adapted_bar = bilevel.outer_grad(adapted.detach())
            (meta_grad,) = torch.autograd.grad(adapted, meta, adapted_bar, materialize_grads=True)
        return Estimate(meta_grad, adapted.detach(), converged, stats)
