from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import jax_compiled, jax_methods


@register("method", "fomaml-jax")
@dataclass(frozen=True)
class FOMAMLJAX(Method):
    """First-order MAML in plain JAX: jit of a `lax.scan` over the inner steps and one query gradient.

    The estimate of `fomaml`. Over tasks, translated, compiled and run as `maml-jax`.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    needs: ClassVar[tuple[str, ...]] = jax_compiled.NEEDS
    in_torch: ClassVar[bool] = False

    def __call__(self, bilevel: Bilevel) -> Estimate:
        return jax_compiled.run(bilevel, self.inner, jax_methods.fomaml)
