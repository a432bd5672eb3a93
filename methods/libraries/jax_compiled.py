"""JAX and jaxopt on a problem written in torch, compiled once for each problem and shape."""

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache

import numpy as np
import torch

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Problem
from bench.registry import name_of
from methods.inner import GradientDescent
from methods.libraries.aten_to_jax import to_jax
from methods.libraries.per_task import gather

NEEDS = ("jax>=0.7", "jaxopt>=0.8.5")


def run(bilevel: Bilevel, inner: InnerSolver, iterations: int | None) -> Estimate:
    """Unrolled through the inner steps, or (``iterations`` of CG) implicitly; copies in and out."""
    if not isinstance(inner, GradientDescent):
        raise Declined(f"this adapter of jaxopt has no '{name_of(inner)}'")
    dtype, device = bilevel.meta.dtype, bilevel.meta.device
    if device.type != "cpu" or dtype not in (torch.float32, torch.float64):
        raise Declined(f"this adapter of JAX runs in float32 or float64 on the CPU, not {dtype} on {device}")
    import jax

    tasks = [getattr(bilevel.tasks, f.name) for f in fields(bilevel.tasks)]
    with jax.enable_x64(dtype == torch.float64):
        inputs = [x.detach() for x in (bilevel.start, *tasks)]
        shapes = tuple((tuple(x.shape[1:]), x.dtype) for x in inputs)
        found = _compiled(bilevel.problem, inner, iterations, shapes)(*(x.numpy() for x in inputs))
        meta_grad, adapted = (list(torch.from_numpy(np.array(x))) for x in found)
    products = inner.steps if iterations is None else iterations
    return gather(bilevel, meta_grad, adapted, inner_grads=inner.steps, inner_hvps=products, outer_grads=1)


@lru_cache(maxsize=64)
def _compiled(problem: Problem, inner: GradientDescent, iterations: int | None, shapes: tuple) -> Callable:
    """jit over vmap over tasks of the gradient in theta: arrays of the batch -> (meta_grad, adapted)."""
    import jax
    import jaxopt
    from jaxopt import linear_solve

    phi, x, y, query_x, query_y = (torch.zeros(shape, dtype=kind) for shape, kind in shapes)
    support = to_jax(lambda p, a, b: problem.support_loss(p, a, b), phi, x, y)
    query = to_jax(lambda p, a, b: problem.query_loss(p, a, b), phi, query_x, query_y)

    def objective(p, theta, a, b):
        return support(p, a, b) + 0.5 * problem.strength * ((p - theta) ** 2).sum()

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
            return query(theta, query_a, query_b), theta
        adapted = solver.run(first, theta, a, b).params
        return query(adapted, query_a, query_b), adapted

    return jax.jit(jax.vmap(jax.grad(outer, has_aux=True)))
