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
    go on. Returns the points, their values, whether a t was accepted and the t. One value per trial.
    """
    t, accepted = torch.ones_like(value) * first, torch.zeros_like(active)
    new_phi, new_value = phi, value
    for _ in range(halvings + 1):
        trial = phi + t[:, None] * direction
        trial_value = bilevel.inner_value(trial)
        good = active & ~accepted & (trial_value <= value + 1e-4 * t * slope)
        new_phi = torch.where(good[:, None], trial, new_phi)
        new_value = torch.where(good, trial_value, new_value)
        accepted = accepted | good
        if not (active & ~accepted).any():
            break
        t = torch.where(accepted, t, t / 2)
    return new_phi, new_value, accepted, t
