from dataclasses import dataclass, field

from bench.api import Bilevel, Counts, Estimate, InnerSolver, Method, finite
from bench.registry import register
from methods.backward import first_order, sweep
from methods.inner import GradientDescent


@register("method", "one-step")
@dataclass(frozen=True)
class OneStep(Method):
    """One-step differentiation (Bolte, Pauwels, Vaiter 2023): the derivative of the last step alone.

    With phi_K = F(phi_{K-1}, theta): meta_grad = (dF/dtheta)' grad query_loss(phi_K), phi_{K-1} a constant
    however few steps there are. Good where F contracts fast (its error is that factor), as Newton's step
    does, whose one-step derivative is `imaml`'s solve. Gradient descent has dF/dtheta =
    learning_rate strength I: the direction of first-order MAML at another length. Costs K + 1 gradients.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)

    def __call__(self, bilevel: Bilevel) -> Estimate:
        solver = first_order(self.inner)
        meta_grad, adapted = sweep(bilevel, solver, max(0, solver.steps - 1), from_start=False)
        return Estimate(meta_grad, adapted, finite(adapted), {})

    def cost(self, n_params: int) -> Counts:
        solver = first_order(self.inner)
        unrolled = min(1, solver.steps)
        return solver.cost() + Counts(inner_grads=unrolled, inner_hvps=unrolled, outer_grads=1)
