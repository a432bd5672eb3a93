from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bench.api import Bilevel, Counts, Curvature, Estimate, InnerSolver, Method, Target, finite, require
from bench.registry import register
from methods.backward import adjoint, checkpointed, first_order, mixed_mode, unrolled
from methods.inner import GradientDescent, entered

BACKWARDS = {
    "unrolled": unrolled,
    "checkpointed": checkpointed,
    "mixed_mode": mixed_mode,
}


@register("method", "maml")
@dataclass(frozen=True)
class MAML(Method):
    """Exact MAML: the derivative of the query loss through all K inner steps (Finn, Abbeel, Levine 2017).

    meta_grad = d/d theta query_loss(phi_K(theta)). Exact for the K steps taken, whatever K is; it reaches
    the implicit gradient as phi_K reaches the inner minimiser. ``backward`` changes time and memory only:
    "adjoint" stores K iterates (K x P numbers), "unrolled" K graphs, "checkpointed" sqrt(K) of them,
    "mixed_mode" K iterates and gradients, with products by forward mode.
    Needs a first-order inner solver; declines others. One in another precision, and products of another
    ``curvature`` than the exact one in the cell's dtype, go with "adjoint" only.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    backward: Literal["adjoint", "unrolled", "checkpointed", "mixed_mode"] = "adjoint"
    curvature: Curvature | None = None
    exact: ClassVar[Target | None] = "maml"
    later: ClassVar[tuple[str, ...]] = ("curvature",)

    def __post_init__(self) -> None:
        fits = self.curvature is None or self.backward == "adjoint"
        require(fits, "curvature", self.curvature, 'left out, or together with backward = "adjoint"')

    def __call__(self, bilevel: Bilevel) -> Estimate:
        if self.backward == "adjoint":
            meta_grad, adapted = adjoint(bilevel, *entered(self.inner, bilevel), self.curvature)
        else:
            meta_grad, adapted = BACKWARDS[self.backward](bilevel, first_order(self.inner))
        return Estimate(meta_grad, adapted, finite(adapted), {})

    def cost(self, n_params: int) -> Counts | None:
        steps = first_order(self.inner.unrounded()).steps
        if self.curvature is not None:
            inner, product = self.inner.cost(), self.curvature.cost(1)
            if inner is None or product is None:
                return None
            return inner + product * steps + Counts(outer_grads=1)
        if self.inner.cost() is None:
            return None
        grads = steps if self.backward == "unrolled" else 2 * steps
        return Counts(inner_grads=grads, inner_hvps=steps, outer_grads=1)
