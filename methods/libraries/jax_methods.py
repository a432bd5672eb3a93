"""One task's meta-gradients in plain JAX; `jax_compiled.run` compiles them over all tasks."""

from collections.abc import Callable
from typing import Any

from methods.inner import GradientDescent
from methods.libraries.jax_compiled import Losses
from methods.libraries.jax_trees import add, dot


def maml(losses: Losses, inner: GradientDescent, _: int | None) -> Callable[..., tuple[Any, Any]]:
    """Reverse mode through the scan of the inner steps."""
    import jax

    def outer(theta, x, y, query_x, query_y):
        adapted = _descend(losses, inner, theta, x, y)
        return losses.query(adapted, query_x, query_y), adapted

    return jax.grad(outer, has_aux=True)


def fomaml(losses: Losses, inner: GradientDescent, _: int | None) -> Callable[..., tuple[Any, Any]]:
    """The query gradient at the last iterate, which counts as a constant plus theta."""
    import jax

    def one(theta, x, y, query_x, query_y):
        adapted = _descend(losses, inner, theta, x, y)
        return jax.grad(losses.query)(adapted, query_x, query_y), adapted

    return one


def imaml(losses: Losses, inner: GradientDescent, iterations: int | None) -> Callable[..., tuple[Any, Any]]:
    """strength x after so many iterations of CG on (H + strength I) x = query gradient, from zero."""
    import jax
    import jax.numpy as jnp

    strength = losses.strength

    def one(theta, x, y, query_x, query_y):
        phi = _descend(losses, inner, theta, x, y)
        _, product = jax.linearize(lambda p: jax.grad(losses.support)(p, x, y), phi)

        def iterate(_, state):
            solution, r, p, rr = state
            Ap = add(product(p), strength, p)
            pAp = dot(p, Ap)
            alpha = rr / jnp.where(pAp == 0, 1, pAp)  # a residual of 0 stays
            solution, r = add(solution, alpha, p), add(r, -alpha, Ap)
            new = dot(r, r)
            return solution, r, add(r, new / jnp.where(rr == 0, 1, rr), p), new

        b = jax.grad(losses.query)(phi, query_x, query_y)
        start = (jax.tree.map(jnp.zeros_like, b), b, b, dot(b, b))
        solution, *_ = jax.lax.fori_loop(0, iterations, iterate, start)
        return jax.tree.map(lambda leaf: strength * leaf, solution), phi

    return one


def _descend(losses: Losses, inner: GradientDescent, theta: Any, x: Any, y: Any) -> Any:
    import jax

    def step(phi, _):
        grad = jax.grad(losses.support)(phi, x, y)
        pull = jax.tree.map(lambda g, p, t: g + losses.strength * (p - t), grad, phi, theta)
        return add(phi, -inner.learning_rate, pull), None

    return jax.lax.scan(step, theta, length=inner.steps)[0]
