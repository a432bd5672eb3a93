"""JAX on a problem written in torch, compiled once for each problem and shape."""

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Problem
from bench.exactly import Exactly
from bench.registry import name_of
from methods.inner import GradientDescent
from methods.libraries.aten_to_jax import Translation
from methods.libraries.jax_trees import by_leaves
from methods.libraries.per_task import gather

NEEDS = ("jax>=0.7",)


class Losses(NamedTuple):
    """One task's losses of (leaves of the parameters, inputs, targets), and lambda of the proximal term."""

    support: Callable[..., Any]
    query: Callable[..., Any]
    strength: float


# (losses, inner solver, CG iterations) -> (theta, support x, y, query x, y) -> (meta_grad, adapted)
Make = Callable[[Losses, GradientDescent, int | None], Callable[..., tuple[Any, Any]]]


def run(
    bilevel: Bilevel, inner: InnerSolver, make: Make, iterations: int | None = None, **calls: int
) -> Estimate:
    """What ``make`` makes of one task on all of them; ``calls`` are its oracle calls but for the inner steps.

    Arrays of torch are handed over as they lie in memory, those of JAX are copied once into the estimate.
    On the CPU; JAX leaves a GPU alone in this process, unless JAX_PLATFORMS says otherwise.
    """
    if not isinstance(inner, GradientDescent):
        raise Declined(f"this adapter of JAX has no '{name_of(inner)}'")
    dtype, device = bilevel.meta.dtype, bilevel.meta.device
    if device.type != "cpu" or dtype not in (torch.float32, torch.float64):
        raise Declined(f"this adapter of JAX runs in float32 or float64 on the CPU, not {dtype} on {device}")
    import jax

    config: Any = jax.config  # its type does not know what it holds
    if not config.jax_platforms:
        config.update("jax_platforms", "cpu")  # of a GPU that it finds JAX takes 3/4 of the memory
    tasks = [getattr(bilevel.tasks, f.name) for f in fields(bilevel.tasks)]
    with jax.enable_x64(dtype == torch.float64), jax.default_device(jax.devices("cpu")[0]):
        inputs = [x.detach() for x in (bilevel.start, *tasks)]
        shapes = tuple((tuple(x.shape[1:]), x.dtype) for x in inputs)
        function = _compiled(Exactly((bilevel.problem, inner, make, iterations, shapes)))
        found = jax.block_until_ready(function(*(x.numpy() for x in inputs)))
        meta_grad, adapted = (list(torch.from_dlpack(x)) for x in found)
    calls["inner_grads"] = inner.steps + calls.get("inner_grads", 0)
    return gather(bilevel, meta_grad, adapted, outer_grads=1, **calls)


@lru_cache(maxsize=64)
def _compiled(of: Exactly[tuple[Problem, GradientDescent, Make, int | None, tuple]]) -> Callable:
    """jit over all tasks, vmap or one after another as the problem says: arrays -> (meta_grad, adapted)."""
    import jax

    problem, inner, make, iterations, shapes = of.value
    phi, x, y, query_x, query_y = (torch.zeros(shape, dtype=kind) for shape, kind in shapes)
    support = Translation(lambda p, a, b: problem.support_loss(p, a, b), phi, x, y)
    query = Translation(lambda p, a, b: problem.query_loss(p, a, b), phi, query_x, query_y)
    to_leaves, to_flat, (support, query) = by_leaves(phi.numpy(), support, query)
    one_task = make(Losses(support, query, problem.strength), inner, iterations)

    def one(theta, *task):
        meta_grad, adapted = one_task(to_leaves(theta), *task)
        return to_flat(meta_grad), to_flat(adapted)

    if problem.batching == "vmap":
        return jax.jit(jax.vmap(one))
    return jax.jit(lambda *arrays: jax.lax.map(lambda task: one(*task), arrays))
