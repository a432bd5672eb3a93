from dataclasses import dataclass

from bench.api import Bilevel, Counts, Curvature, Matvec, Vectors
from bench.registry import register


@register("curvature", "exact")
@dataclass(frozen=True)
class Exact(Curvature):
    """Hessian of G times v by reverse-over-reverse differentiation, linearised once at phi.

    Costs one gradient for the linearisation, then about two gradients a product.
    """

    def __call__(self, bilevel: Bilevel, phi: Vectors) -> Matvec:
        return bilevel.inner_hvp(phi)

    def cost(self, products: int) -> Counts:
        return Counts(inner_grads=1, inner_hvps=products)
