from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import jax_compiled, jaxopt_methods


@register("method", "maml-jaxopt")
@dataclass(frozen=True)
class MAMLJAXopt(Method):
    """Exact MAML by JAX through jaxopt's gradient descent (Blondel et al. 2022): jit over all tasks.

    The problem's losses are translated from torch operation by operation; an operation without a translation
    is declined. vmap over tasks, or `lax.map` where the problem's batching is a loop. Exact. Compiled at the
    first call for each problem and shape. Runs on JAX's own threads, outside torch's memory meter.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    needs: ClassVar[tuple[str, ...]] = jaxopt_methods.NEEDS
    in_torch: ClassVar[bool] = False

    def __call__(self, bilevel: Bilevel) -> Estimate:
        steps = getattr(self.inner, "steps", 0)
        return jax_compiled.run(bilevel, self.inner, jaxopt_methods.gradient, inner_hvps=steps)
