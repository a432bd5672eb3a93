"""Meta-training: theta moves along a method's meta-gradient, averaged over a batch of tasks, step after step.

    g = mean over tasks of meta_grad(theta);  theta <- outer optimizer(theta, g)

Every batch comes from a generator of its own, seeded by the problem, the seed and the number of the step, so
that training which is ended and resumed from a checkpoint gives the same bits as training in one go.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import accuracy, registry
from bench.api import Bilevel, InnerSolver, Method, OuterOptimizer, Problem, Split, Tasks, Vector
from bench.arrays import Arrays
from bench.at_once import estimate
from bench.bilevel import Engine
from bench.errors import UsageError
from bench.failures import DivergedError
from bench.inputs import generator, seed_of

NORMAL_95 = 1.96
TASKS_AT_ONCE = 25  # of an evaluation: bounds its memory
_STATE = "optimizer."


@dataclass(frozen=True)
class Course:
    """All that decides what is learnt. ``n_tasks`` are in a batch; the method gets ``at_once`` at a time."""

    problem: Problem
    method: Method
    outer: OuterOptimizer
    n_tasks: int
    seed: int
    dtype: torch.dtype
    device: torch.device
    at_once: int

    def key(self, *more: Any) -> str:
        """Names random numbers: by the problem and ``more`` alone, so that methods meet the same tasks."""
        return json.dumps([registry.describe(self.problem), *more], sort_keys=True)

    def tasks(self, split: Split, n_tasks: int, *key: Any) -> Tasks:
        """Tasks of a split in the course's dtype on its device; task t is the same in a larger batch."""
        rows = []
        for number in range(n_tasks):
            rows.append(self.problem.sample(generator(self.key(split, *key, number)), 1, split))
        whole = Tasks(**{f.name: torch.cat([getattr(row, f.name) for row in rows]) for f in fields(Tasks)})
        return whole.to(self.dtype, self.device)


class Training:
    """Meta-parameters on their way, from ``start`` or else where the problem begins.

    ``losses`` and ``norms`` have a number for every step taken.

    losses: mean query loss of the batch at the adapted parameters, before theta moves. norms: of g.
    """

    def __init__(self, course: Course, engine: Engine | None = None, start: Vector | None = None):
        self.course, self._engine = course, engine
        if start is None:
            start = course.problem.init(generator(course.key("init", course.seed)))
        self._theta: Tensor = start.to(course.device, course.dtype, copy=True).requires_grad_()
        self._optimizer = course.outer.optimizer(self._theta)
        self.losses: list[float] = []
        self.norms: list[float] = []

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return len(self.losses)

    @property
    def theta(self) -> Vector:
        """The meta-parameters now, as a copy."""
        return self._theta.detach().clone()

    def advance(self) -> None:
        """Take one step. Raises `DivergedError`, and leaves theta where it was, if g is not finite."""
        of, number = self.course, self.step
        tasks = of.tasks("train", of.n_tasks, "step", of.seed, number)
        seeds = [seed_of("noise", of.seed, number, task) for task in range(of.n_tasks)]
        bilevel = Bilevel(of.problem, tasks, self.theta, seeds=seeds, engine=self._engine)
        found = accuracy.check(estimate(of.method, bilevel, of.at_once), bilevel)
        gradient = found.meta_grad.mean(dim=0)
        norm = float(gradient.norm())
        if not np.isfinite(norm):
            raise DivergedError(f"the meta-gradient of step {number} is not finite")
        with torch.no_grad():
            loss = float(bilevel.eager().outer_value(found.adapted).mean())
        self._theta.grad = gradient
        self._optimizer.step()
        self.losses.append(loss)
        self.norms.append(norm)

    def checkpoint(self) -> Arrays:
        """All that `restore` needs to go on as if nothing had happened."""
        kept = self._optimizer.state.get(self._theta, {})
        for name, value in kept.items():
            if not isinstance(value, Tensor | int | float | None):
                kind = type(value).__name__
                raise UsageError(f"the state '{name}' of the outer optimizer is a {kind}, which is not kept")
        state = {f"{_STATE}{name}": _array(value) for name, value in kept.items() if value is not None}
        curves = {"losses": np.array(self.losses), "norms": np.array(self.norms)}
        return {"theta": _array(self._theta), **curves, **state}

    def restore(self, arrays: Arrays) -> None:
        """Go on from a `checkpoint` of this course.

        Raises `UsageError` where it is of another network, and `ValueError` where it is none.
        """
        if arrays["theta"].shape != tuple(self._theta.shape):
            got, wanted = arrays["theta"].shape, tuple(self._theta.shape)
            raise UsageError(f"the checkpoint holds meta-parameters {got}, and the problem has {wanted}")
        with torch.no_grad():
            self._theta.copy_(torch.from_numpy(arrays["theta"]))
        kept = {
            name.removeprefix(_STATE): torch.from_numpy(value.copy())
            for name, value in arrays.items()
            if name.startswith(_STATE)
        }
        wrong = [name for name, value in kept.items() if value.shape not in (self._theta.shape, (), (1,))]
        if wrong or len(arrays["losses"]) != len(arrays["norms"]):
            raise ValueError(f"the sizes do not fit of {', '.join(wrong) or 'losses and norms'}")
        # By torch's own loader, which knows what goes to the parameter's device.
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": {0: kept} if kept else {}, "param_groups": groups})
        self.losses, self.norms = arrays["losses"].tolist(), arrays["norms"].tolist()


def evaluate(course: Course, theta: Vector, split: Split, n_tasks: int) -> dict[str, Any]:
    """Query loss, and accuracy where the problem classifies, adapted to each of ``n_tasks`` tasks of a split.

    Each as mean, standard deviation over tasks, and half the width of its 95 % interval, 1.96 s / sqrt(n):
    what the field reports. The tasks are the same for every method and seed. A method adapts with its inner
    solver, or, where it has none, as it does for its meta-gradient.
    """
    inner = getattr(course.method, "inner", None)
    losses, shares = [], []
    for rows in _in_parts(course.tasks(split, n_tasks, "evaluation")):
        seeds = [seed_of("noise", split, len(losses), task) for task in range(len(rows))]
        bilevel = Bilevel(course.problem, rows, theta.to(course.device, course.dtype), seeds=seeds)
        with torch.no_grad():
            if isinstance(inner, InnerSolver):
                adapted = inner(bilevel, bilevel.start).value
            else:
                adapted = course.method(bilevel).adapted
            losses.append(bilevel.outer_value(adapted).double())
            shares.append(bilevel.outer_accuracy(adapted))
    known = [share.double() for share in shares if share is not None]
    return {
        "split": split,
        "n_tasks": n_tasks,
        "loss": _summary(torch.cat(losses)),
        "accuracy": _summary(torch.cat(known)) if known else None,
    }


def _in_parts(tasks: Tasks) -> Iterator[Tasks]:
    for first in range(0, len(tasks), TASKS_AT_ONCE):
        yield tasks[slice(first, first + TASKS_AT_ONCE)]


def _summary(values: Tensor) -> dict[str, float]:
    deviation = float(values.std()) if len(values) > 1 else float("nan")
    return {
        "mean": float(values.mean()),
        "deviation": deviation,
        "half_width": NORMAL_95 * deviation / len(values) ** 0.5,
    }


def _array(value: Tensor | int | float) -> np.ndarray:
    return value.detach().cpu().numpy().copy() if isinstance(value, Tensor) else np.array(value)
