"""The error of a computed meta-gradient as rounding plus truncation, each between proven bounds, per task."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from flint import ctx

from bench import registry
from bench.api import Bilevel, InnerSolver, Method, Vectors
from bench.certified import references
from bench.certified.arithmetic import Array, Balls
from bench.certified.enclosure import BOUND, Enclosure, distance, enclose, ratio, size
from bench.certified.play import BranchError, Player
from bench.certified.program import NotCertifiedError
from bench.certified.references import Certified, read
from bench.certified.trace import trace
from bench.reference import Reference, differentiable

SECONDS = 240.0  # for all tasks of a cell
MOST_TURNS = 50


def certify(
    method: Method,
    bilevel: Bilevel,
    meta_grad: Vectors,
    exact: Bilevel,
    float64: Mapping[str, Reference],
    bound: float = BOUND,
) -> dict[str, Any]:
    """The certified part of a record: for every task the errors of ``meta_grad``, or why there are none.

    ``bilevel`` is what ``method`` was given, ``exact`` the same in float64, ``float64`` the references that
    were computed there. The exact result is that of the method's own program with its inputs as they are:
    casts change nothing, and numbers in the code (a learning rate) are the float64 that they are in Python,
    so that rounding them to the dtype is rounding too. Where rounding made the run take another branch than
    exact arithmetic does, the program is that of the latter, and "turned" lists these branches. Relative
    errors are to the norm of the exact result ("rounding") or of the reference.
    """
    until, tasks = time.monotonic() + SECONDS, []
    for number in range(len(bilevel.tasks)):
        one = _alone(bilevel, number)
        try:
            entry, found = _task(method, one, meta_grad[number], bound, until)
        except NotCertifiedError as error:
            tasks.append({"missing": str(error), "kind": error.kind})
            continue
        except Exception as error:  # noqa: BLE001  a plugin may raise anything, and no certificate is no failure
            tasks.append({"missing": f"failed: {type(error).__name__}: {error}", "kind": "failed"})
            continue
        entry["references"] = _against(
            found, meta_grad[number], _alone(exact, number), number, method, float64, bound, until
        )
        tasks.append(entry)
    return {"bound": bound, "tasks": tasks}


def _alone(bilevel: Bilevel, task: int) -> Bilevel:
    """One task on the CPU, without an engine, with an empty memory."""
    tasks, meta = bilevel.tasks.to(device="cpu"), bilevel.meta.detach().cpu()
    return Bilevel(bilevel.problem, tasks, meta, seeds=bilevel.seeds).one(task)


def _task(
    method: Method, one: Bilevel, computed: torch.Tensor, bound: float, until: float
) -> tuple[dict[str, Any], Enclosure]:
    if not method.in_torch:
        raise NotCertifiedError("hidden numbers", f"'{registry.name_of(method)}' does its work outside torch")
    answers: list[Any] = []
    turned: list[str] = []
    running = one

    def run() -> list[torch.Tensor]:
        nonlocal running
        running = one.take([0])
        return [method(running).meta_grad]

    while True:
        start = time.monotonic()
        program = trace(run, [], read(one), lambda: _stage(running), answers)
        traced = time.monotonic()
        try:
            found = enclose(Player(program), [], bound, until - traced)
            break
        except BranchError as error:
            if not isinstance(error.exact, bool) or len(turned) == MOST_TURNS:
                raise
            turned.append(str(error.node))
            answers = [*error.before, error.exact]
    entry = {
        "rounding": _share(_balls(computed), found.balls, found.balls),
        "radius": found.radius,
        "bits": found.bits,
        "nodes": found.nodes,
        "seconds": found.seconds,
        "trace_seconds": traced - start,
        "turned": turned,
    }
    return entry, found


def _stage(bilevel: Bilevel) -> str:
    calls = bilevel.calls
    return f"after {calls.inner_grads} inner gradients and {calls.inner_hvps} products"


def _against(
    found: Enclosure,
    computed: torch.Tensor,
    exact: Bilevel,
    task: int,
    method: Method,
    float64: Mapping[str, Reference],
    bound: float,
    until: float,
) -> dict[str, Any]:
    inner: Any = getattr(method, "inner", None)  # without a first-order one there is no MAML
    inner = inner.unrounded() if isinstance(inner, InnerSolver) else inner
    ways: dict[str, Callable[[], Certified]] = {
        "maml": lambda: references.maml(exact, inner, bound, until - time.monotonic()),
        "implicit": lambda: references.implicit(exact, until - time.monotonic()),
    }
    result: dict[str, Any] = {}
    for name, reference in float64.items():
        missing = reference.missing.get(task)
        if missing and not (name == "maml" and differentiable(inner)):  # which balls may have without float64
            result[name] = {"missing": missing}
            continue
        given = _balls(reference.value[task])
        entry: dict[str, Any] = {}
        try:
            proven = ways[name]()
            entry |= {"certified": True, "how": proven.how}
            if not missing:
                entry["float64_error"] = _share(given, proven.balls, proven.balls)
        except Exception as error:  # noqa: BLE001  what cannot be proven is taken as float64 has it
            if missing:
                result[name] = {"missing": missing}
                continue
            proven = Certified(given, reference.how)
            entry |= {"certified": False, "how": f"{reference.how}; not certified: {error}"}
        entry["rounding"] = _share(_balls(computed), found.balls, proven.balls)
        entry["truncation"] = _share(found.balls, proven.balls, proven.balls)
        entry["total"] = _share(_balls(computed), proven.balls, proven.balls)
        result[name] = entry
    return result


def _balls(x: torch.Tensor) -> Array:
    return Balls().of(x.detach().cpu().double().numpy())


def _share(a: Array, b: Array, whole: Array) -> dict[str, float] | None:
    """The distance of a and b over the norm of ``whole``: bounds; None where a is not finite."""
    if not all(x.is_finite() for x in a.flat):
        return None
    with ctx.workprec(512):
        low, high = ratio(distance(a, b), size(whole))
    return {"lower": low, "upper": high}
