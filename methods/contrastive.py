from dataclasses import dataclass, field

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, require
from bench.registry import register
from methods.difference import nudges
from methods.inner import GradientDescent


@register("method", "contrastive")
@dataclass(frozen=True)
class Contrastive(Method):
    """The contrastive meta-learning rule (Zucchet et al. 2022): a free phase, then a nudged one from its end.

    With phi_0 from minimising G and phi_nu from minimising G + nu query_loss, started at phi_0:
    meta_grad = (dG/dtheta at phi_nu - dG/dtheta at phi_0) / nu = strength (phi_0 - phi_nu) / nu.
    No Hessian products. Equals the implicit gradient up to O(nu) at exact minimisers; unlike `fo-b-maml` it
    also carries what the free phase left undone: the nudged phase goes on minimising G, so an error of phi_0,
    or the tolerance of a solver that has one, enters divided by nu: a small ``nudge`` needs long inner
    solves. 0 picks nu per task from the dtype's rounding and that tolerance (and spends a query gradient).
    Not for every inner solver: `closed_form` declines, and Adam restarts with steps of its learning rate,
    however small nu is. Costs two inner solves, the second with a query gradient beside every gradient.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    nudge: float = 0.01

    def __post_init__(self) -> None:
        require(self.nudge >= 0, "nudge", self.nudge, "0 (automatic) or a positive number")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        tolerance = getattr(self.inner, "tolerance", 0.0)
        nu = nudges(bilevel, phi, self.nudge, "forward", tolerance)
        nudged = self.inner(bilevel.nudged(nu), phi)
        meta_grad = bilevel.strength * (phi - nudged.value) / nu[:, None]
        return Estimate(meta_grad, phi, converged & nudged.converged, stats)

    def cost(self, n_params: int) -> Counts | None:
        one = self.inner.cost()
        if one is None:
            return None
        nudged = one + Counts(outer_values=one.inner_values, outer_grads=one.inner_grads)
        return one + nudged + Counts(outer_grads=0 if self.nudge else 1)
