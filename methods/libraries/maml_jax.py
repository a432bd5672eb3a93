from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import jax_compiled, jax_methods


@register("method", "maml-jax")
@dataclass(frozen=True)
class MAMLJAX(Method):
    """Exact MAML in plain JAX: jit of `jax.grad` through a `lax.scan` over the inner steps.

    vmap over tasks, or `lax.map` where the problem's batching is a loop; the parameters are carried as a tree
    of layers. Translated, compiled and run as `maml-jaxopt`. Exact. Of the ways tried the scan is as fast to
    run as any up to a tenth: unrolled in Python (compiles for two to four times as long), with checkpointed
    steps, and the adjoint sweep written out with products by reverse or by forward mode.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    needs: ClassVar[tuple[str, ...]] = jax_compiled.NEEDS
    in_torch: ClassVar[bool] = False

    def __call__(self, bilevel: Bilevel) -> Estimate:
        steps = getattr(self.inner, "steps", 0)
        return jax_compiled.run(bilevel, self.inner, jax_methods.maml, inner_hvps=steps)
