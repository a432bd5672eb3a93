"""One task's meta-gradients by jaxopt; `jax_compiled.run` compiles them over all tasks."""

from collections.abc import Callable
from typing import Any

from methods.inner import GradientDescent
from methods.libraries.jax_compiled import Losses
from methods.libraries.jax_trees import add, dot

NEEDS = ("jax>=0.7", "jaxopt>=0.8.5")


def gradient(
    losses: Losses, inner: GradientDescent, iterations: int | None
) -> Callable[..., tuple[Any, Any]]:
    """Unrolled through the inner steps, or (``iterations`` of CG) implicitly."""
    import jax
    import jaxopt
    from jaxopt import linear_solve

    def objective(p, theta, a, b):
        pull = add(p, -1.0, theta)
        return losses.support(p, a, b) + 0.5 * losses.strength * dot(pull, pull)

    def solve(matvec, b):
        return linear_solve.solve_cg(matvec, b, maxiter=iterations, tol=0.0, atol=0.0)

    solver = jaxopt.GradientDescent(
        objective,
        maxiter=inner.steps,
        stepsize=inner.learning_rate,
        tol=0.0,
        acceleration=False,
        implicit_diff=iterations is not None,
        implicit_diff_solve=solve,
        unroll=iterations is None,
    )

    def outer(theta, a, b, query_a, query_b):
        first = theta if iterations is None else jax.lax.stop_gradient(theta)
        if iterations is None and inner.steps == 0:  # jaxopt's loop of no steps does not compile
            return losses.query(theta, query_a, query_b), theta
        adapted = solver.run(first, theta, a, b).params
        return losses.query(adapted, query_a, query_b), adapted

    return jax.grad(outer, has_aux=True)
