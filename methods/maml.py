from dataclasses import dataclass, field
from typing import ClassVar, Literal

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, Target, finite
from bench.registry import register
from methods.backward import adjoint, checkpointed, first_order, mixed_mode, unrolled
from methods.inner import GradientDescent

BACKWARDS = {
    "adjoint": adjoint,
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
    Needs a first-order inner solver; declines others.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    backward: Literal["adjoint", "unrolled", "checkpointed", "mixed_mode"] = "adjoint"
    exact: ClassVar[Target | None] = "maml"

    def __call__(self, bilevel: Bilevel) -> Estimate:
        meta_grad, adapted = BACKWARDS[self.backward](bilevel, first_order(self.inner))
        return Estimate(meta_grad, adapted, finite(adapted), {})

    def cost(self, n_params: int) -> Counts:
        steps = first_order(self.inner).steps
        grads = steps if self.backward == "unrolled" else 2 * steps
        return Counts(inner_grads=grads, inner_hvps=steps, outer_grads=1)
