"""A method on a few tasks at a time: what it keeps for each of its tasks is held for those few only."""

from typing import Any

import torch

from bench.api import Bilevel, Estimate, Method, PerTask, Problem


def asked(description: dict[str, Any], problem: Problem, method: Method) -> int:
    """How many tasks at a time a cell's method is given."""
    return description.get("tasks_at_once") or usual(problem, method, description["n_tasks"])


def usual(problem: Problem, method: Method, n_tasks: int) -> int:
    """The same where a cell does not say it: one where the problem's losses run one by one anyway, else all.

    A library outside torch has a loop of its own.
    """
    return 1 if problem.batching == "loop" and method.in_torch else n_tasks


def estimate(method: Method, bilevel: Bilevel, at_once: int) -> Estimate:
    """``method(bilevel)``, computed ``at_once`` tasks at a time. The rows are the tasks, in their order.

    Nothing couples tasks but stopping rules, which wait for the slowest of a batch. A call counts once for
    all chunks, as it does for all tasks of a batch; where chunks differ, the most calls of one count.
    """
    n_tasks = len(bilevel.tasks)
    if at_once >= n_tasks:
        return method(bilevel)
    parts = []
    for first in range(0, n_tasks, at_once):
        which = slice(first, first + at_once)
        parts.append(bilevel.take(which))
        parts[-1].memory.update({name: rows[which] for name, rows in bilevel.memory.items()})
    found = [method(part) for part in parts]
    counted = [part.calls.as_dict() for part in parts]
    bilevel.calls.add(**{name: max(calls[name] for calls in counted) for name in counted[0]})
    for name in parts[0].memory:
        bilevel.memory[name] = torch.cat([part.memory[name] for part in parts])
    grads, adapted, converged, stats = zip(*found, strict=True)
    names = dict.fromkeys(name for each in stats for name in each)
    joined = {name: torch.cat([_told(name, each) for each in found]) for name in names}
    return Estimate(torch.cat(grads), torch.cat(adapted), torch.cat(converged), joined)


def _told(name: str, estimate: Estimate) -> PerTask:
    """A statistic of a chunk; NaN where it has none, for what a solver tells may depend on what it met."""
    if name in estimate.stats:
        return estimate.stats[name]
    return estimate.adapted.new_full((len(estimate.adapted),), torch.nan)
