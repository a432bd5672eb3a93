from dataclasses import dataclass, field

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent


@register("method", "reptile")
@dataclass(frozen=True)
class Reptile(Method):
    """Reptile (Nichol, Achiam, Schulman 2018): the direction from the adapted to the meta-parameters.

    meta_grad = theta - phi. It never sees the query set and its length depends on the inner step size, so
    compare its cosine rather than its relative error. Costs the inner solve; memory does not grow with K.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        start = bilevel.start
        phi, converged, stats = self.inner(bilevel, start)
        return Estimate(start - phi, phi, converged, stats)

    def cost(self, n_params: int) -> Counts | None:
        return self.inner.cost()
