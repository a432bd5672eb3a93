from dataclasses import dataclass, field

import torch

from bench.api import Bilevel, Counts, Declined, Estimate, InnerSolver, Method, finite, require
from bench.registry import name_of, register
from methods.inner import GradientDescent


@register("method", "binomial-maml")
@dataclass(frozen=True)
class BinomialMAML(Method):
    """Truncated binomial expansion of MAML by gradient descent (BinomMAML, 2026), to ``order`` L.

    A step has the Jacobian c I - a H_k, a = learning_rate, c = 1 - a strength, H_k the support Hessian at
    phi_k. With u_k = A_k .. A_{K-1} grad query_loss, meta_grad = u_0 + a strength sum_k u_{k+1}; each u_k is
    expanded in the number of factors H it holds, and terms with more than L of them are dropped:
    u^l_k = c u^l_{k+1} - a H_k u^{l-1}_{k+1}. L = 0 is first-order; exact MAML for L >= K; the error falls
    like (a K |H|)^{L+1} / (L+1)!. The K products of an order need nothing of each other and are one batch.
    Costs 2 K gradients and L K products; memory K graphs, which MAML by the adjoint sweep does without.
    """

    inner: InnerSolver = field(default_factory=GradientDescent)
    order: int = 2

    def __post_init__(self) -> None:
        require(self.order >= 0, "order", self.order, "0 or more")

    def __call__(self, bilevel: Bilevel) -> Estimate:
        if not isinstance(self.inner, GradientDescent):
            raise Declined(f"it expands gradient descent; the inner solver is '{name_of(self.inner)}'")
        steps, rate, strength = self.inner.steps, self.inner.learning_rate, bilevel.strength
        path, phi = [], bilevel.start
        for _ in range(steps):
            path.append(phi)
            phi = phi - rate * bilevel.inner_grad(phi)
        query = bilevel.outer_grad(phi)
        order = min(self.order, steps)
        hvp = bilevel.repeat(steps).inner_hvp(torch.cat(path)) if order > 0 else torch.zeros_like
        shift = 1 - rate * strength
        powers = shift ** torch.arange(steps, -1, -1, dtype=query.dtype, device=query.device)
        term = powers[:, None, None] * query  # of u_k for k = 0 .. K
        total = term
        for _ in range(order):
            after = term[1:].flatten(0, 1)
            products = (hvp(after) - strength * after).unflatten(0, (steps, -1))
            rows = [torch.zeros_like(query)]
            for k in reversed(range(steps)):
                rows.append(shift * rows[-1] - rate * products[k])
            term = torch.stack(rows[::-1])
            total = total + term
        meta_grad = total[0] + rate * strength * total[1:].sum(dim=0)
        return Estimate(meta_grad, phi, finite(phi), {})

    def cost(self, n_params: int) -> Counts:
        steps = self.inner.steps if isinstance(self.inner, GradientDescent) else 0
        order = min(self.order, steps)
        return Counts(inner_grads=steps * (2 if order else 1), inner_hvps=order * steps, outer_grads=1)
