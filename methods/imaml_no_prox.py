from dataclasses import dataclass, field

from bench.api import Bilevel, Counts, Estimate, LinearSolver, Method, require
from bench.registry import register
from methods.linear import ConjugateGradient


@register("method", "imaml-no-prox")
@dataclass(frozen=True)
class IMAMLNoProx(Method):
    """iMAML without the proximal term in its inner loop, as several public baselines run it.

    phi by ``steps`` of gradient descent on the support loss alone from theta, then
    meta_grad = (I + H / strength)^-1 grad query_loss, as though phi minimised G. Nothing ties the minimiser
    of the support loss to theta: the exact implicit gradient of what was solved is zero. Never exact;
    recorded as it is. Costs K + 1 gradients and the solver's products.
    """

    steps: int = 10
    learning_rate: float = 0.01
    linear: LinearSolver = field(default_factory=ConjugateGradient)

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "0 or more")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "a positive number")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        strength, theta = bilevel.strength, bilevel.start
        phi = theta
        for _ in range(self.steps):
            phi = phi - self.learning_rate * (bilevel.inner_grad(phi) - strength * (phi - theta))
        hvp, query = bilevel.inner_hvp(phi), bilevel.outer_grad(phi)
        x, converged, stats = self.linear(hvp, query, noise=bilevel.noise)
        stats = {f"linear_{name}": value for name, value in stats.items()}
        return Estimate(-bilevel.cross(phi, x), phi, converged, stats)

    def cost(self, n_params: int) -> Counts | None:
        products = self.linear.products(n_params)
        if products is None:
            return None
        return Counts(inner_grads=self.steps + 1, inner_hvps=products, outer_grads=1)
