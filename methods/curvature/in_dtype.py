from dataclasses import dataclass, field

from bench.api import (
    Bilevel,
    CastProduct,
    Counts,
    Curvature,
    Matvec,
    Precision,
    Vectors,
    cast,
    dtype_of,
    require_scale,
)
from bench.registry import register
from methods.curvature.exact import Exact


@register("curvature", "in_dtype")
@dataclass(frozen=True)
class InDtype(Curvature):
    """Another curvature's products in ``dtype``: data, phi and v are cast in, the product is cast back.

    With ``loss_scale`` the products are those of loss_scale * G, divided by it in v's dtype, so that they
    survive in float16. Equal to ``curvature`` bit for bit where ``dtype`` is the cell's. Costs the same.
    """

    dtype: Precision = "float64"
    loss_scale: float = 1.0
    curvature: Curvature = field(default_factory=Exact)

    def __post_init__(self) -> None:
        require_scale(self.loss_scale)

    def __call__(self, bilevel: Bilevel, phi: Vectors) -> Matvec:
        dtype = dtype_of(self.dtype)
        if dtype == phi.dtype and self.loss_scale == 1:
            return self.curvature(bilevel, phi)
        there = cast(bilevel, dtype, self.loss_scale)
        return CastProduct(self.curvature(there, phi.to(dtype)), dtype, self.loss_scale)

    def cost(self, products: int) -> Counts | None:
        return self.curvature.cost(products)
