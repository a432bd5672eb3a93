"""The batteries of inner solvers and curvatures."""

from dataclasses import replace
from typing import Any

import torch

from bench.api import Curvature, FirstOrderSolver, InnerSolver
from bench.testing.battery import Battery, battery
from bench.testing.samples import regression, stationary


@battery
def check_inner_solver(run: Battery, plugin: InnerSolver | str | dict[str, Any]) -> None:
    """The battery of an inner solver: it lowers G, tasks do not mix, same call gives the same bits.

    A field `tolerance` is one of |grad G|, absolute or relative to its value at the start.
    """
    solver = run.construct("inner", plugin)
    if solver is None:
        return
    bilevel = regression()
    solution = run.attempt("runs on linear regression", lambda: solver(bilevel, bilevel.start))
    if solution is None:
        return
    run.add("value is [T, P]", solution.value.shape == bilevel.start.shape)
    lower = bilevel.inner_value(solution.value) < bilevel.inner_value(bilevel.start)
    run.add("lowers the inner objective", bool(lower.all()))
    run.add("same call, same bits", torch.equal(solution.value, solver(bilevel, bilevel.start).value))
    each = [solver(bilevel.one(t), bilevel.start[t : t + 1]).value for t in range(3)]
    run.close("tasks do not mix", torch.cat(each), solution.value, 1e-12)
    tasks = bilevel.start.shape[:1]
    run.add(
        "converged is a bool per task",
        solution.converged.dtype == torch.bool and solution.converged.shape == tasks,
    )
    run.add("statistics are per task", all(s.shape == tasks for s in solution.stats.values()))
    fresh = regression()
    start, kept = fresh.start, fresh.start
    solver(fresh, start)
    run.add("leaves its start untouched", torch.equal(start, kept))
    declared = solver.cost()
    if declared is not None:
        counted = fresh.calls.as_dict()
        text = f"declared {declared.as_dict()}, counted {counted}"
        run.add("declared cost equals the counted one", declared.as_dict() == counted, text)
    flat = stationary()
    still = run.attempt("stationary start", lambda: solver(flat, flat.start))
    run.add(
        "finite where every gradient is zero", still is not None and bool(torch.isfinite(still.value).all())
    )
    run.add("converged where every gradient is zero", still is not None and bool(still.converged.all()))
    _check_tolerance(run, solver)
    _check_rule(run, solver)
    low = regression().to(torch.float32)
    single = run.attempt("float32", lambda: solver(low, low.start))
    run.add("float32 in, float32 out", single is not None and single.value.dtype == torch.float32)


def _check_rule(run: Battery, solver: Any) -> None:
    """A kernel is made of the rule: its step has to be the solver's own at every place of the loop."""
    if not isinstance(solver, FirstOrderSolver):
        return
    bilevel = regression()
    phi, state, rule = bilevel.start, solver.init(bilevel.start), solver.rule()
    same = True
    for step in range(solver.steps):
        grad, numbers = bilevel.inner_grad(phi), solver.schedule(step)
        of_rule = rule.update(phi, grad, state, *numbers)
        phi, state = solver.update(phi, grad, state, *numbers)
        pairs = zip((of_rule[0], *of_rule[1]), (phi, *state), strict=True)
        same = same and all(torch.equal(a, b) for a, b in pairs)
    run.add("its rule takes the same steps", same)


def _check_tolerance(run: Battery, solver: Any) -> None:
    """Converged means that |grad G| is within the tolerance, also after one step, when few meet theirs."""
    tolerance = getattr(solver, "tolerance", 0.0)
    if not tolerance > 0:
        return
    versions = [solver, replace(solver, steps=1)] if hasattr(solver, "steps") else [solver]
    for version in versions:
        label = "" if version is solver else ", after one step"
        name, bilevel = f"converged means that the tolerance is met{label}", regression()
        first = bilevel.inner_grad(bilevel.start).norm(dim=1)
        solution = run.attempt(name, lambda v=version, b=bilevel: v(b, b.start))
        if solution is None:
            continue
        left = bilevel.inner_grad(solution.value).norm(dim=1)
        met = left <= 10 * tolerance * first.clamp_min(1)
        run.add(
            name,
            bool((~solution.converged | met).all()),
            f"|grad G| {left.tolist()}, tolerance {tolerance:g}",
        )


@battery
def check_curvature(run: Battery, plugin: Curvature | str | dict[str, Any]) -> None:
    """The battery of a curvature: linear, symmetric, equal to the Hessian on a quadratic, zero at zero."""
    curvature = run.construct("curvature", plugin)
    if curvature is None:
        return
    bilevel = regression()
    matvec = run.attempt("linearises", lambda: curvature(bilevel, bilevel.start))
    if matvec is None:
        return
    u, v = torch.randn(
        2, *bilevel.start.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    run.close("equals the Hessian on a quadratic", matvec(v), bilevel.inner_hvp(bilevel.start)(v), 1e-8)
    run.close("linear", matvec(2 * u - v), 2 * matvec(u) - matvec(v), 1e-8)
    run.close("symmetric", (u * matvec(v)).sum(dim=1), (v * matvec(u)).sum(dim=1), 1e-6)
    run.add("zero at zero", not matvec(torch.zeros_like(v)).any())
    fresh = regression()
    matvec = curvature(fresh, fresh.start)
    for _ in range(3):
        matvec(v)
    declared = curvature.cost(3)
    if declared is not None:
        counted = fresh.calls.as_dict()
        text = f"declared {declared.as_dict()}, counted {counted}"
        run.add("declared cost equals the counted one", declared.as_dict() == counted, text)
