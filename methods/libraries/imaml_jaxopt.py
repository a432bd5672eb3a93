from dataclasses import dataclass, field
from typing import ClassVar

from bench.api import Bilevel, Estimate, InnerSolver, Method, Target, require
from bench.registry import register
from methods.inner import GradientDescent
from methods.libraries import jax_compiled, jaxopt_methods


@register("method", "imaml-jaxopt")
@dataclass(frozen=True)
class IMAMLJAXopt(Method):
    """iMAML by jaxopt's implicit differentiation of its gradient descent (Blondel et al. 2022), under jit.

    The linear system by ``iterations`` of jaxopt's conjugate gradient. Exact as `imaml` is. Translated,
    compiled and run as `maml-jaxopt`.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    iterations: int = 5
    needs: ClassVar[tuple[str, ...]] = jaxopt_methods.NEEDS
    in_torch: ClassVar[bool] = False
    limit: ClassVar[Target | None] = "implicit"

    def __post_init__(self) -> None:
        require(self.iterations >= 1, "iterations", self.iterations, "1 or more")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        calls = {"inner_hvps": self.iterations}
        return jax_compiled.run(bilevel, self.inner, jaxopt_methods.gradient, self.iterations, **calls)
