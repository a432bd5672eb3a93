from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Counts, Curvature, Estimate, InnerSolver, LinearSolver, Method, Target, Vectors
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
    limit: ClassVar[Target | None] = "implicit"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        return implicit_gradient(bilevel, self.inner, self.linear, self.curvature)[0]

    def cost(self, n_params: int) -> Counts | None:
        inner, products = self.inner.cost(), self.linear.products(n_params)
        solve = None if products is None else self.curvature.cost(products)
        return None if inner is None or solve is None else inner + solve + Counts(outer_grads=1)


def implicit_gradient(
    bilevel: Bilevel,
    inner: InnerSolver,
    linear: LinearSolver,
    curvature: Curvature,
    start: Vectors | None = None,
) -> tuple[Estimate, Vectors]:
    """iMAML's estimate and the linear solution x behind it, with the linear solver started at ``start``."""
    phi, inner_converged, stats = inner(bilevel, bilevel.start)
    matvec = curvature(bilevel, phi)
    x, converged, linear_stats = linear(matvec, bilevel.outer_grad(phi), start, bilevel.noise)
    stats = stats | {f"linear_{name}": value for name, value in linear_stats.items()}
    return Estimate(-bilevel.cross(phi, x), phi, inner_converged & converged, stats), x
