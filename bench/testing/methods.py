"""The battery of methods."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch

from bench.api import Bilevel, Declined, Estimate, InnerSolver, Method, Target
from bench.errors import UsageError
from bench.reference import Reference, implicit_reference, maml_reference
from bench.registry import build, describe, is_stochastic, kind_of, parts, unavailable
from bench.testing.battery import Battery, battery
from bench.testing.samples import regression, same_tasks, sinusoid, stationary

DRAWS = 200
LIMIT = 1e-4
TOLERANCE = {"maml": 1e-10, "implicit": 1e-8}


@battery
def check_method(
    run: Battery,
    plugin: Method | str | dict[str, Any],
    exact: Target | None = None,
    also_on: Sequence[Bilevel] = (),
) -> None:
    """The battery of a method, on linear regression.

    ``exact`` overrides the promise that its class makes, which is checked on a sinusoid and, where given, on
    ``also_on`` too.
    """
    method = run.construct("method", plugin)
    if method is None:
        return
    for part in parts(method):
        if reason := unavailable(part):
            run.fail("available", Declined(reason))
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
    _check_cost(run, method, bilevel)
    _check_noise(run, method, first)
    rounded = regression().to(torch.float32)
    low = run.attempt("float32", lambda: method(rounded))
    if low is not None:
        run.add("float32 in, float32 out", low.meta_grad.dtype == torch.float32)
        high = method(rounded.to(torch.float64)).meta_grad
        run.close("float32 agrees with float64", low.meta_grad.double(), high, method.float32_error)
    if method.limit is not None:
        _check_limit(run, method, method.limit)
    promise = exact or method.exact
    if promise is not None:
        run.attempt(f"keeps its promise: {promise}", lambda: _check_promise(run, method, promise, also_on))


def _check_cost(run: Battery, method: Method, used: Bilevel) -> None:
    """``used``: the problem after one call."""
    declared = run.attempt("declares its cost", lambda: method.cost(used.meta.shape[-1]))
    counted = used.calls.as_dict()
    if declared is not None:
        text = f"declared {declared.as_dict()}, counted {counted}"
        run.add("declared cost equals the counted one", declared.as_dict() == counted, text)


def _check_noise(run: Battery, method: Method, first: Estimate) -> None:
    """Random numbers come from the tasks' seeds and are declared; their mean is what was promised."""
    b = regression()
    draws = DRAWS if method.unbiased else 1
    firsts = range(3, 3 * draws + 3, 3)
    reseeded = [Bilevel(b.problem, b.tasks, b.meta, seeds=range(n, n + 3)) for n in firsts]
    differs = not torch.equal(method(reseeded[0]).meta_grad, first.meta_grad)
    declared = is_stochastic(method)
    run.add("another seed changes it if and only if it is stochastic", differs == declared, f"{differs}")
    state = torch.get_rng_state()
    method(b)
    run.add("global random state untouched", torch.equal(state, torch.get_rng_state()))
    if method.unbiased is not None:
        reference = _reference(b, method, method.unbiased).value
        seen = torch.stack([method(one).meta_grad for one in reseeded])
        error = (seen.mean(dim=0) - reference) / (seen.std(dim=0) / draws**0.5)
        worst = error.abs().max().item()
        run.add(f"mean over {draws} seeds is exact {method.unbiased}", worst < 5, f"{worst:.1f} sigma")


def _check_limit(run: Battery, method: Method, limit: Target) -> None:
    """Linear regression with the parts run to the end: the inner solve by 300 steps of length near 1 / L."""
    ends: dict[str, Any] = {
        "inner": build("inner", {"name": "gradient_descent", "steps": 300, "learning_rate": 0.1}),
        "linear": build("linear", "dense"),
        "iterations": 12,
        "last": 300,
        "unroll_from": 0,
    }
    values = {f.name: getattr(method, f.name) for f in fields(cast(Any, method))}
    ends["iterations"] = max(ends["iterations"], values.get("iterations", 0))
    # A field with one of these names may be off, or hold something else, as the name of a library's solver.
    same = (k for k, v in values.items() if v is not None and kind_of(type(v)) == kind_of(type(ends.get(k))))
    swap = {k: ends[k] for k in same if k in ends}
    name = f"tends to the exact {limit} gradient as its parts converge"
    ended = run.attempt(name, lambda: replace(cast(Any, method), **swap)(regression()))
    if ended is not None:
        run.close(name, ended.meta_grad, _reference(regression(), method, limit).value, LIMIT)


def _reference(bilevel: Bilevel, method: Method, target: Target) -> Reference:
    return implicit_reference(bilevel) if target == "implicit" else maml_reference(bilevel, inner_of(method))


def _check_promise(run: Battery, method: Method, promise: Target, also_on: Sequence[Bilevel]) -> None:
    for bilevel in (regression(), sinusoid(), *also_on):
        name = f"equals the exact {promise} gradient on {describe(bilevel.problem)['name']}"
        try:
            got = method(bilevel).meta_grad
        except Declined as reason:
            run.add(name, True, f"declined: {reason}")
            continue
        reference = _reference(bilevel, method, promise)
        run.add(f"{name}: reference exists", not reference.missing, str(reference.missing or reference.how))
        run.close(name, got, reference.value, TOLERANCE[promise])


def inner_of(method: Method) -> InnerSolver:
    """The inner solver of a method that promises the gradient through its steps."""
    inner = getattr(method, "inner", None)
    if not isinstance(inner, InnerSolver):
        raise UsageError(f"{type(method).__name__} promises 'maml': it needs a field `inner: InnerSolver`")
    return inner
