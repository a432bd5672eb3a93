from dataclasses import dataclass, field

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent


@register("method", "fomaml")
@dataclass(frozen=True)
class FOMAML(Method):
    """First-order MAML (Finn, Abbeel, Levine 2017): the query gradient at phi, the Jacobian taken as I.

    meta_grad = grad query_loss(phi). Exact only where d phi / d theta = I (no inner step). Costs the inner
    solve and one query gradient; memory does not grow with K.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        return Estimate(bilevel.outer_grad(phi), phi, converged, stats)

    def cost(self, n_params: int) -> Counts | None:
        return None if (inner := self.inner.cost()) is None else inner + Counts(outer_grads=1)
