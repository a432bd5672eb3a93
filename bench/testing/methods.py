"""The battery of methods."""

from typing import Any

import torch

from bench.api import Declined, Estimate, InnerSolver, Method, Target
from bench.errors import UsageError
from bench.reference import implicit_reference, maml_reference
from bench.registry import describe
from bench.testing.battery import Battery, battery
from bench.testing.samples import regression, same_tasks, sinusoid, stationary

TOLERANCE = {"maml": 1e-10, "implicit": 1e-8}


@battery
def check_method(run: Battery, plugin: Method | str | dict[str, Any], exact: Target | None = None) -> None:
    """The battery of a method, on linear regression. ``exact`` overrides the promise that its class makes."""
    method = run.construct("method", plugin)
    if method is None:
        return
    bilevel = regression()
    first: Estimate | None = run.attempt("runs on linear regression", lambda: method(bilevel))
    if first is None:
        return
    shape = bilevel.start.shape
    run.add(
        "meta-gradient and adapted parameters are [T, P]",
        first.meta_grad.shape == first.adapted.shape == shape,
    )
    run.add(
        "converged is a bool per task",
        first.converged.dtype == torch.bool and first.converged.shape == shape[:1],
    )
    run.add("statistics are per task", all(s.shape == shape[:1] for s in first.stats.values()))
    run.add("keeps the dtype", first.meta_grad.dtype == torch.float64)
    run.add(
        "returns no autograd graph", not first.meta_grad.requires_grad and not first.adapted.requires_grad
    )
    run.add("finite", bool(torch.isfinite(first.meta_grad).all()))
    run.add(
        "counts its oracle calls", sum(bilevel.calls.as_dict().values()) > 0, str(bilevel.calls.as_dict())
    )
    fresh = regression()
    run.add(
        "leaves its inputs untouched", torch.equal(bilevel.meta, fresh.meta) and same_tasks(bilevel, fresh)
    )
    again = method(fresh).meta_grad
    run.add("same call, same bits", torch.equal(first.meta_grad, again))
    swapped = method(fresh.take([2, 0, 1])).meta_grad
    run.close("permuting tasks permutes results", swapped, first.meta_grad[[2, 0, 1]], 1e-12)
    alone = torch.cat([method(fresh.one(t)).meta_grad for t in range(len(fresh.tasks))])
    run.close("one task at a time equals all at once", alone, first.meta_grad, 1e-12)
    single = run.attempt("one task with one shot", lambda: method(regression(n_tasks=1, support=1)))
    run.add(
        "one task with one shot is finite",
        single is not None and bool(torch.isfinite(single.meta_grad).all()),
    )
    flat = run.attempt("stationary start", lambda: method(stationary()))
    run.add(
        "finite where every gradient is zero", flat is not None and bool(torch.isfinite(flat.meta_grad).all())
    )
    single32 = run.attempt("float32", lambda: method(regression().to(torch.float32)))
    run.add("float32 in, float32 out", single32 is not None and single32.meta_grad.dtype == torch.float32)
    promise = exact or method.exact
    if promise is not None:
        run.attempt(f"keeps its promise: {promise}", lambda: _check_promise(run, method, promise))


def _check_promise(run: "Battery", method: Method, promise: Target) -> None:
    for bilevel in (regression(), sinusoid()):
        name = f"equals the exact {promise} gradient on {describe(bilevel.problem)['name']}"
        try:
            got = method(bilevel).meta_grad
        except Declined as reason:
            run.add(name, True, f"declined: {reason}")
            continue
        if promise == "implicit":
            reference = implicit_reference(bilevel)
        else:
            reference = maml_reference(bilevel, inner_of(method))
        run.add(f"{name}: reference exists", not reference.missing, str(reference.missing or reference.how))
        run.close(name, got, reference.value, TOLERANCE[promise])


def inner_of(method: Method) -> InnerSolver:
    """The inner solver of a method that promises the gradient through its steps."""
    inner = getattr(method, "inner", None)
    if not isinstance(inner, InnerSolver):
        raise UsageError(f"{type(method).__name__} promises 'maml': it needs a field `inner: InnerSolver`")
    return inner
