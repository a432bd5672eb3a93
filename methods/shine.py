from dataclasses import dataclass, field

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method
from bench.registry import name_of, register
from methods.inner import LBFGS


@register("method", "shine")
@dataclass(frozen=True)
class SHINE(Method):
    """SHINE (Ramzi et al. 2022): the inner solver's quasi-Newton inverse in place of a linear solve.

    meta_grad = -cross B^-1 grad query_loss = strength B^-1 grad query_loss, B^-1 the L-BFGS estimate of the
    inverse Hessian of G at phi. Exact only as far as that estimate is along the query gradient, which the
    inner solve explored by chance: outside the span of its steps B^-1 is a multiple of I, and the result may
    be worse than first-order MAML. Costs the inner solve and one query gradient, no Hessian product.
    Needs the inner solver `lbfgs`; declines others.
    """

    inner: InnerSolver = field(default_factory=lambda: LBFGS(tolerance=1e-4))

    def __call__(self, bilevel: Bilevel) -> Estimate:
        if not isinstance(self.inner, LBFGS):
            raise Declined(f"inner solver '{name_of(self.inner)}' keeps no inverse Hessian; use 'lbfgs'")
        (phi, converged, stats), inverse = self.inner.minimise(bilevel, bilevel.start)
        x = inverse(bilevel.outer_grad(phi))
        return Estimate(-bilevel.cross(phi, x), phi, converged, stats)
