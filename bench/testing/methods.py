"""The battery of methods."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, cast

import numpy
import torch
from torch import Tensor

from bench.api import Bilevel, Counts, Declined, Estimate, InnerSolver, Method, Plugin, Target
from bench.errors import UsageError
from bench.reference import Reference, implicit_reference, maml_reference
from bench.registry import build, describe, is_stochastic, kind_of, parts, unavailable
from bench.testing.battery import Battery, battery
from bench.testing.samples import Home, regression, same_tasks, sinusoid, sinusoids, stationary

DRAWS = 2000
CHUNK = 500  # draws of a call
LIMIT = 1e-7
ADAPTED = 1e-8
ENOUGH = {"steps": 300, "iterations": 50}  # for the parts to converge on linear regression
TOLERANCE = {"maml": 1e-10, "implicit": 1e-8}


@battery
def check_method(
    run: Battery,
    plugin: Method | str | dict[str, Any],
    exact: Target | None = None,
    also_on: Sequence[Bilevel] = (),
) -> None:
    """The battery of a method, on linear regression, or on sinusoids where it declines that.

    Of a method with a field `inner`, an inner solver, ``adapted`` is what that returns from theta. Where the
    method has a `known_fault`, what that spoils passes, and the fault has to show.
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
    run.fault = method.known_fault()
    home, bilevel, first = _first(run, method)
    if first is None:
        return
    _check_form(run, first, bilevel)
    _check_adapted(run, method, home, first)
    _check_converged(run, method, home, first)
    _check_calls(run, method, bilevel)
    _check_memory(run, method, home, first)
    fresh = home()
    run.add(
        "leaves its inputs untouched", torch.equal(bilevel.meta, fresh.meta) and same_tasks(bilevel, fresh)
    )
    again = method(fresh).meta_grad
    run.add("same call, same bits", torch.equal(first.meta_grad, again))
    swapped = method(fresh.take([2, 0, 1])).meta_grad
    run.close("permuting tasks permutes results", swapped, first.meta_grad[[2, 0, 1]], 1e-12)
    alone = torch.cat([method(fresh.one(t)).meta_grad for t in range(len(fresh.tasks))])
    run.close("one task at a time equals all at once", alone, first.meta_grad, 1e-12)
    single = run.attempt("one task with one shot", lambda: method(home(n_tasks=1, support=1)))
    good = single is not None and bool(torch.isfinite(single.meta_grad).all())
    run.add("one task with one shot is finite", good)
    flat = run.attempt("stationary start", lambda: method(stationary(home)))
    run.may_be_spoilt(
        "finite where every gradient is zero", flat is not None and bool(torch.isfinite(flat.meta_grad).all())
    )
    _check_cost(run, method, bilevel)
    _check_noise(run, method, home, first)
    rounded = home().to(torch.float32)
    low = run.attempt("float32", lambda: method(rounded))
    if low is not None:
        run.add("float32 in, float32 out", low.meta_grad.dtype == torch.float32)
        high = method(rounded.to(torch.float64)).meta_grad
        run.close("float32 agrees with float64", low.meta_grad.double(), high, method.float32_error)
    if method.limit is not None:
        _check_limit(run, method, home, method.limit)
    promise = exact or method.exact
    if promise is not None:
        run.attempt(f"keeps its promise: {promise}", lambda: _check_promise(run, method, promise, also_on))
    run.fault_shows()


def _first(run: Battery, method: Method) -> tuple[Home, Bilevel, Estimate | None]:
    """The problem that the battery runs on, and the first estimate there; None where there is none."""
    name, bilevel, other = "runs on linear regression", regression(), sinusoids()
    try:
        return regression, bilevel, method(bilevel)
    except Exception as error:  # noqa: BLE001  as in `Battery.attempt`
        first = Battery().attempt(name, lambda: method(other)) if isinstance(error, Declined) else None
        if first is None:
            run.fail(name, error)
        else:
            run.add(name, True, f"declined: {error}")
        return sinusoids, other, first


def _check_form(run: Battery, first: Estimate, bilevel: Bilevel) -> None:
    shape = bilevel.start.shape
    meta_grad, adapted, converged, stats = first
    run.add("meta-gradient and adapted parameters are [T, P]", meta_grad.shape == adapted.shape == shape)
    good = converged.dtype == torch.bool and converged.shape == shape[:1]
    run.add("converged is a bool per task", good)
    good = all(isinstance(s, Tensor) and s.shape == shape[:1] for s in stats.values())
    run.add("statistics are per task", good)
    unknown = [name for name, s in stats.items() if not torch.isfinite(torch.as_tensor(s)).all()]
    run.add("statistics are finite", not unknown, ", ".join(unknown))
    run.add("keeps the dtype", meta_grad.dtype == adapted.dtype == torch.float64)
    run.add("returns no autograd graph", not meta_grad.requires_grad and not adapted.requires_grad)
    finite = torch.isfinite(meta_grad).all() and torch.isfinite(adapted).all()
    run.add("finite", bool(finite))


def _check_adapted(run: Battery, method: Method, home: Home, first: Estimate) -> None:
    inner, bilevel = getattr(method, "inner", None), home()
    if not isinstance(inner, InnerSolver):
        return
    solution = run.attempt("its inner solver runs", lambda: inner(bilevel, bilevel.start))
    if solution is not None:
        moved = first.adapted - bilevel.start, solution.value - bilevel.start
        run.close("adapted is what its inner solver returns", *moved, ADAPTED, run.may_be_spoilt)


def _check_converged(run: Battery, method: Method, home: Home, first: Estimate) -> None:
    """A method that never says so would be left out of every comparison; few steps may be too few."""

    def tries() -> Iterator[Estimate]:
        yield first
        for more in (_longer, partial(_ended, home=home)):
            try:
                yield more(method)(home())
            except Declined:
                continue

    name = "says of some run that it converged"
    found = run.attempt(name, lambda: any(bool(one.converged.all()) for one in tries()))
    if found is not None:
        run.add(name, found, "as it is, with more steps and iterations, with parts that converge")


def _check_calls(run: Battery, method: Method, used: Bilevel) -> None:
    """``used``: the problem after one call."""
    counted, before = used.calls.as_dict(), 1000
    run.add("counts its oracle calls", sum(counted.values()) > 0, str(counted))
    calls = Counts(**dict.fromkeys(counted, before))
    there = Bilevel(used.problem, used.tasks, used.meta, calls)
    method(there)
    added = {name: number - before for name, number in calls.as_dict().items()}
    good = there.calls is calls and added == counted
    run.add("adds its calls to those counted before", good, f"added {added}, alone {counted}")


def _check_memory(run: Battery, method: Method, home: Home, first: Estimate) -> None:
    """What an earlier outer step left behind may save work; it may not show in the result."""
    name, b, memory = "an earlier call does not show in the result", home(), {}
    method(Bilevel(b.problem, b.tasks, b.meta + 0.1, memory=memory))
    later = Bilevel(b.problem, b.tasks, b.meta, memory=memory)
    if not memory:
        run.add(name, torch.equal(method(later).meta_grad, first.meta_grad))
        return
    # Only after as many iterations as its accuracy takes is the start forgotten.
    long = _longer(method)
    allowed = max(1e-6, 100 * getattr(getattr(long, "linear", None), "tolerance", 0.0))
    run.close(name, long(later).meta_grad, long(b).meta_grad, allowed)


def _check_cost(run: Battery, method: Method, used: Bilevel) -> None:
    """``used``: the problem after one call."""
    declared = run.attempt("declares its cost", lambda: method.cost(used.meta.shape[-1]))
    counted = used.calls.as_dict()
    if declared is not None:
        text = f"declared {declared.as_dict()}, counted {counted}"
        run.add("declared cost equals the counted one", declared.as_dict() == counted, text)


def _check_noise(run: Battery, method: Method, home: Home, first: Estimate) -> None:
    """Random numbers come from the tasks' seeds and are declared; their mean is what was promised."""
    b = home()
    reseeded = Bilevel(b.problem, b.tasks, b.meta, seeds=(3, 4, 5))
    differs = not torch.equal(method(reseeded).meta_grad, first.meta_grad)
    declared = is_stochastic(method)
    run.add("another seed changes it if and only if it is stochastic", differs == declared, f"{differs}")
    _check_random_state(run, method, home)
    if method.unbiased is not None:
        reference = _reference(b, method, method.unbiased).value
        tasks = b.tasks[torch.arange(3).repeat(CHUNK)]
        chunks = (range(n, n + 3 * CHUNK) for n in range(3, 3 * DRAWS + 3, 3 * CHUNK))
        many = [method(Bilevel(b.problem, tasks, b.meta, seeds=seeds)).meta_grad for seeds in chunks]
        seen = torch.cat(many).unflatten(0, (-1, 3))
        # The length along the reference, all tasks together, is known better than any single entry.
        along = (seen * reference).sum(dim=2) / reference.square().sum(dim=1)
        entry, length = _sigmas(seen, reference), _sigmas(along.flatten(), torch.ones(()))
        kept, detail = entry < 5 and length < 4, f"{entry:.1f} sigma, {length:.1f} in its length"
        run.promised(f"mean over {DRAWS} seeds is exact {method.unbiased}", kept, detail)


def _sigmas(draws: Tensor, mean: Tensor) -> float:
    """By how many standard errors the mean of the draws is off, at the worst entry."""
    error = (draws.mean(dim=0) - mean) / (draws.std(dim=0) / len(draws) ** 0.5)
    return error.abs().max().item()


def _check_random_state(run: Battery, method: Method, home: Home) -> None:
    """The global generators of torch, NumPy and Python are neither drawn from nor seeded.

    Type checkers such as beartype draw from Python's, so that only a use of it that shows counts.
    """
    kept = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    untouched, seen, left = True, [], []
    try:
        for seed in (1, 2):
            random.seed(seed)
            numpy.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            before = _states()
            estimate = method(home())
            untouched = untouched and _states() == before
            left.append(random.getstate())
            tensors = estimate.meta_grad, estimate.adapted, *estimate.stats.values()
            seen.append(repr([torch.as_tensor(x).tolist() for x in tensors]))
    finally:
        torch.set_rng_state(kept[0])
        numpy.random.set_state(kept[1])
        random.setstate(kept[2])
    good = untouched and seen[0] == seen[1] and left[0] != left[1]
    run.add("global random state untouched", good)


def _states() -> tuple[Any, Any]:
    state: Any = numpy.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), (state["state"]["key"].tolist(), state["state"]["pos"])


def _check_limit(run: Battery, method: Method, home: Home, limit: Target) -> None:
    name = f"tends to the exact {limit} gradient as its parts converge"
    ended = run.attempt(name, lambda: _ended(method, home)(home()))
    if ended is not None:
        wanted = _reference(home(), method, limit).value
        run.close(name, ended.meta_grad, wanted, LIMIT, run.promised)


def _ended(method: Method, home: Home) -> Method:
    """With parts that converge on ``home``: the inner one by 300 steps of length near 1 / L."""
    rate = 0.1 if home is regression else 0.02
    ends: dict[str, Any] = {
        "inner": build("inner", {"name": "gradient_descent", "steps": 300, "learning_rate": rate}),
        "linear": build("linear", "dense"),
        "iterations": 12,
        "difference": "symmetric",
        "last": 300,
        "unroll_from": 0,
    }
    values = {f.name: getattr(method, f.name) for f in fields(cast(Any, method))}
    ends["iterations"] = max(ends["iterations"], values.get("iterations", 0))
    # A field with one of these names may be off, or hold something else, as the name of a library's solver.
    same = (k for k, v in values.items() if v is not None and kind_of(type(v)) == kind_of(type(ends.get(k))))
    swap = {k: ends[k] for k in same if k in ends}
    if {"last": None, "unroll_from": None}.items() <= values.items():  # neither given is a few steps
        swap["last"] = ends["last"]
    return replace(cast(Any, method), **swap)


def _longer(plugin: Any) -> Any:
    """The same parts, all of them with more steps and iterations."""
    values = {f.name: getattr(plugin, f.name) for f in fields(plugin)}
    swap = {k: _longer(v) for k, v in values.items() if isinstance(v, Plugin)}
    swap |= {k: max(values[k], most) for k, most in ENOUGH.items() if isinstance(values.get(k), int)}
    return replace(plugin, **swap)


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
        run.close(name, got, reference.value, TOLERANCE[promise], run.promised)


def inner_of(method: Method) -> InnerSolver:
    """The inner solver of a method that promises the gradient through its steps."""
    inner = getattr(method, "inner", None)
    if not isinstance(inner, InnerSolver):
        raise UsageError(f"{type(method).__name__} promises 'maml': it needs a field `inner: InnerSolver`")
    return inner
