from dataclasses import dataclass

from bench.api import Bilevel, Counts, Curvature, Matvec, Vectors
from bench.registry import register


@register("curvature", "gauss_newton")
@dataclass(frozen=True)
class GaussNewton(Curvature):
    """Generalised Gauss-Newton (Schraudolph 2002): J' loss'' J + strength I in place of the Hessian.

    J is the Jacobian of the network's outputs, loss'' the Hessian of the loss in them. Leaves out the term
    with the outputs' second derivatives: exact where outputs are linear in phi or their residuals vanish.
    Positive definite for strength > 0 and a convex loss, even where the Hessian is indefinite. Declines where
    the problem has no `outputs`. One product costs about one Hessian product; no gradient.
    """

    def __call__(self, bilevel: Bilevel, phi: Vectors) -> Matvec:
        return bilevel.gauss_newton(phi)

    def cost(self, products: int) -> Counts:
        return Counts(inner_hvps=products)
