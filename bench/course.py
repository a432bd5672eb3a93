"""A training cell: its course, checkpoints on the way, evaluations at its stages, and what it leaves behind.

    <results>/<study>/trained/<id>.npz    meta-parameters at the start, half-way and at the end, and curves

While training runs the same file is the checkpoint that it goes on from after a kill.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import arrays, registry
from bench.arrays import Arrays
from bench.at_once import asked
from bench.desk import Desk
from bench.errors import UsageError
from bench.inputs import Prepared
from bench.train import Course, Training, evaluate

CHECKPOINT_S = 20.0
POINTS = 100  # of a curve in a record; the file has all
STAGES = ("start", "half", "end")
EVALUATED = ("val", "val", "test")  # at each stage: the test classes are looked at once
_STAGE = "stage."


def train(cell_id: str, description: dict[str, Any], cell: Prepared, desk: Desk) -> dict[str, Any]:
    """Train to the end, from the checkpoint where there is one; returns the record's part.

    Raises `DivergedError`, `StoreError`, and what plugins raise.
    """
    course = _course(description, cell)
    steps, path = description["outer_steps"], trained(desk.folder, cell_id)
    training, stages = Training(course, cell.engine), {}
    if path is not None and path.exists() and not desk.anew:
        stages = _resume(training, path)
    begun, started, saved = training.step, time.monotonic(), time.monotonic()
    at = dict(sorted({steps // 2: "half", 0: "start", steps: "end"}.items()))  # one step has no half
    while True:
        if training.step in at and at[training.step] not in stages:
            stages[at[training.step]] = training.theta
        if training.step >= steps:
            break
        training.advance()
        desk.progress(training.step, steps)
        if path is not None and time.monotonic() - saved > CHECKPOINT_S:
            arrays.write(path, training.checkpoint() | _named(stages))
            saved = time.monotonic()
    seconds = time.monotonic() - started
    digest = None if path is None else arrays.write(path, training.checkpoint() | _named(stages))
    return {
        "steps": steps,
        "curve": _curve(training),
        "evaluations": [
            {"stage": stage, "step": step}
            | evaluate(course, stages[stage], split, description["evaluation_tasks"])
            for (step, stage), split in zip(at.items(), EVALUATED[-len(at) :], strict=True)
        ],
        "seconds_per_step": seconds / max(1, steps - begun) if steps > begun else None,
        "file": None if path is None else {"name": path.name, "sha256": digest},
    }


def trained(folder: Path | None, cell_id: str) -> Path | None:
    """The file of a training cell's meta-parameters in the folder of its study."""
    return None if folder is None else folder / "trained" / f"{cell_id}.npz"


def stage(path: Path, name: str, sha256: str | None = None) -> torch.Tensor:
    """The meta-parameters that a training cell had at a stage. Raises `UsageError` where there are none."""
    found = arrays.read(path, sha256)
    key = f"{_STAGE}{name}"
    if key not in found:
        known = ", ".join(n.removeprefix(_STAGE) for n in found if n.startswith(_STAGE)) or "none"
        raise UsageError(f"{path} has no stage '{name}'; it has: {known}")
    return torch.from_numpy(found[key])


def _course(description: dict[str, Any], cell: Prepared) -> Course:
    few = asked(description, cell.problem, cell.method)
    outer = registry.build("outer", description["outer"])
    return Course(
        cell.problem, cell.method, outer, description["n_tasks"], description["seed"],
        cell.meta.dtype, cell.device, few,
    )  # fmt: skip


def _resume(training: Training, path: Path) -> dict[str, torch.Tensor]:
    found = arrays.read(path)
    training.restore({name: value for name, value in found.items() if not name.startswith(_STAGE)})
    return {
        name.removeprefix(_STAGE): torch.from_numpy(value)
        for name, value in found.items()
        if name.startswith(_STAGE)
    }


def _named(stages: dict[str, torch.Tensor]) -> Arrays:
    return {f"{_STAGE}{name}": theta.cpu().numpy() for name, theta in stages.items()}


def _curve(training: Training) -> dict[str, list[float]]:
    """Means over windows of equal length, by the last step of each."""
    windows = np.array_split(np.arange(training.step), min(POINTS, training.step)) if training.step else []
    losses, norms = np.array(training.losses), np.array(training.norms)
    return {
        "step": [int(window[-1]) + 1 for window in windows],
        "loss": [float(losses[window].mean()) for window in windows],
        "norm": [float(norms[window].mean()) for window in windows],
    }
