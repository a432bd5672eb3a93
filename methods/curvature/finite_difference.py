from dataclasses import dataclass

import torch

from bench.api import Bilevel, Counts, Curvature, Matvec, Vectors, require
from bench.registry import register


@register("curvature", "finite_difference")
@dataclass(frozen=True)
class FiniteDifference(Curvature):
    """Central difference: (grad G(phi + h v) - grad G(phi - h v)) / 2h, h = epsilon (1 + |phi|) / |v|.

    Error O(h^2) from the third derivative plus O(rounding / h); exact up to rounding on quadratics.
    ``epsilon`` 0 takes the cube root of the dtype's rounding unit, which balances the two.
    Two gradients a product and no graph.
    """

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        require(self.epsilon >= 0, "epsilon", self.epsilon, "0 (automatic) or a positive number")

    def __call__(self, bilevel: Bilevel, phi: Vectors) -> Matvec:
        epsilon = self.epsilon or torch.finfo(phi.dtype).eps ** (1 / 3)
        reach = epsilon * (1 + torch.linalg.vector_norm(phi, dim=1, keepdim=True))

        def product(v: Vectors) -> Vectors:
            norm = torch.linalg.vector_norm(v, dim=1, keepdim=True)
            h = reach / torch.where(norm > 0, norm, 1)
            return (bilevel.inner_grad(phi + h * v) - bilevel.inner_grad(phi - h * v)) / (2 * h)

        return product

    def cost(self, products: int) -> Counts:
        return Counts(inner_grads=2 * products)
