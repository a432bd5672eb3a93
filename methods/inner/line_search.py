"""Armijo backtracking for a batch of tasks, shared by the inner solvers that search along a direction."""

import torch

from bench.api import Bilevel, PerTask, Vectors


def backtrack(
    bilevel: Bilevel,
    phi: Vectors,
    value: PerTask,
    direction: Vectors,
    slope: PerTask,
    active: PerTask,
    halvings: int,
    first: float | PerTask = 1.0,
) -> tuple[Vectors, PerTask, PerTask, PerTask]:
    """phi + t direction, t halved from ``first`` until G <= ``value`` + 1e-4 t slope (Armijo 1966).

    ``slope`` is grad'direction, negative. Only ``active`` tasks move; a task stops at its own t, the others
    go on. Returns the points, their values, whether a t was accepted and the t. One value per trial. Under
    autograd the points are differentiable, with t as a constant: `Searches`.
    """
    t, accepted = torch.ones_like(value) * first, torch.zeros_like(active)
    new_phi, new_value = phi, value
    slope = slope.detach()
    for _ in range(halvings + 1):
        trial = phi + t[:, None] * direction
        with torch.no_grad():  # comparisons have no derivative
            trial_value = bilevel.inner_value(trial)
            good = active & ~accepted & (trial_value <= value + 1e-4 * t * slope)
            new_value = torch.where(good, trial_value, new_value)
            accepted = accepted | good
        new_phi = torch.where(good[:, None], trial, new_phi)
        if not (active & ~accepted).any():
            break
        t = torch.where(accepted, t, t / 2)
    return new_phi, new_value, accepted, t


class Searches:
    """What became of the line searches of every task, for the statistics of its solver.

    `line_search_accepted`, `line_search_failures` (no t was accepted; the task stops); of the accepted ones
    `line_search_flat`, after which G as computed is no smaller. `line_search_promise` is what the last search
    promised in ulps of G: -t slope / (eps |G|), t the accepted one or, where none was, the first: below 1 the
    decrease is lost in rounding. `negative_curvature` are steps whose direction (Hessian-free: any of its
    CG) has curvature 0 or less, `no_descent` those that took the negative gradient in its place.
    """

    def __init__(self, value: PerTask):
        self._stats = {
            f"line_search_{name}": torch.zeros_like(value) for name in ("accepted", "failures", "flat")
        }
        self._stats["line_search_promise"] = torch.full_like(value, torch.nan)

    def add(
        self,
        active: PerTask,
        accepted: PerTask,
        before: PerTask,
        after: PerTask,
        slope: PerTask,
        first: PerTask,
        t: PerTask,
    ) -> None:
        """A search of the ``active`` tasks: ``before`` and ``after`` are G, ``first`` and ``t`` its ends."""
        self.count("line_search_accepted", accepted)
        self.count("line_search_failures", active & ~accepted)
        self.count("line_search_flat", accepted & (after >= before))
        eps = torch.finfo(before.dtype).eps
        promise = -torch.where(accepted, t, first) * slope / (eps * before.abs())
        last = self._stats["line_search_promise"]
        self._stats["line_search_promise"] = torch.where(active, promise, last).detach()

    def count(self, name: str, where: PerTask) -> None:
        """One more in the tasks ``where``."""
        self._stats[name] = self._stats.get(name, torch.zeros_like(where, dtype=torch.float32)) + where

    def stats(self) -> dict[str, PerTask]:
        return self._stats
