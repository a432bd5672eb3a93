from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Estimate, InnerSolver, Method, Target, require
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import jax_compiled, jax_methods


@register("method", "imaml-jax")
@dataclass(frozen=True)
class IMAMLJAX(Method):
    """iMAML in plain JAX: the support gradient linearised once, then ``iterations`` of CG from zero, in jit.

    meta_grad = strength x with (H + strength I) x = query gradient; the estimate of `imaml`. Over tasks,
    translated, compiled and run as `maml-jax`. Products that linearise anew each time ran as fast.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    iterations: int = 5
    needs: ClassVar[tuple[str, ...]] = jax_compiled.NEEDS
    in_torch: ClassVar[bool] = False
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        calls = {"inner_grads": 1, "inner_hvps": self.iterations}
        return jax_compiled.run(bilevel, self.inner, jax_methods.imaml, self.iterations, **calls)
