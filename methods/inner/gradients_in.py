from dataclasses import dataclass, field
from typing import cast as typed

from bench.api import Bilevel, CastGradients, Counts, InnerSolver, Precision, dtype_of, require_scale
from bench.registry import register
from methods.inner.gradient_descent import GradientDescent
from methods.inner.rounded import Rounded


@register("inner", "gradients_in")
@dataclass(frozen=True)
class GradientsIn(Rounded):
    """Mixed precision (Micikevicius et al. 2018): gradients in ``dtype``, iterates and state in the cell's.

    g = (d/d phi of loss_scale * G)(phi cast to dtype) / loss_scale, divided in the cell's dtype: gradients
    that underflow in float16 survive. Powers of two only, so that float64 gives the same bits at every scale.
    ``dynamic`` halves a task's scale and takes its gradient again where that is not finite, and doubles it
    after 20 finite ones; ``loss_scale`` is the first. Costs what ``inner`` does, and those gradients.
    """

    dtype: Precision = "float64"
    loss_scale: float = 1.0
    dynamic: bool = False
    inner: InnerSolver = field(default_factory=GradientDescent)

    def __post_init__(self) -> None:
        require_scale(self.loss_scale)

    def enter(self, bilevel: Bilevel) -> Bilevel:
        if dtype_of(self.dtype) == bilevel.meta.dtype and self.loss_scale == 1 and not self.dynamic:
            return bilevel
        there = bilevel.at(bilevel.meta)
        there.engine = CastGradients(bilevel, dtype_of(self.dtype), self.loss_scale, self.dynamic)
        return there

    def seen(self, there: Bilevel) -> dict:
        if not self.dynamic:
            return {}
        engine = typed(CastGradients, there.engine)
        return {"loss_scale": engine.scale, "loss_scale_halvings": engine.halvings}

    def cost(self) -> Counts | None:
        return None if self.dynamic else self.inner.cost()
