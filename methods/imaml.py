from dataclasses import dataclass, field

from bench.api import Bilevel, Curvature, Estimate, InnerSolver, LinearSolver, Method
from bench.registry import register
from methods.curvature import Exact
from methods.inner import GradientDescent
from methods.linear import ConjugateGradient


@register("method", "imaml")
@dataclass(frozen=True)
class IMAML(Method):
    """Implicit MAML (Rajeswaran, Finn, Kakade, Levine 2019): the implicit function theorem at phi.

    meta_grad = -cross (Hessian G)^-1 grad query_loss = (I + H / strength)^-1 grad query_loss, with H the
    Hessian of the support loss at phi. Exact at the inner minimiser with an exact linear solve; the error is
    the sum of both inexactnesses (the paper's theorem 1). Memory does not grow with the inner steps.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    linear: LinearSolver = field(default_factory=ConjugateGradient)
    curvature: Curvature = field(default_factory=Exact)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        phi, inner_converged, stats = self.inner(bilevel, bilevel.start)
        x, converged, linear_stats = self.linear(self.curvature(bilevel, phi), bilevel.outer_grad(phi))
        stats = stats | {f"linear_{name}": value for name, value in linear_stats.items()}
        return Estimate(-bilevel.cross(phi, x), phi, inner_converged & converged, stats)
