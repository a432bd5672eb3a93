"""A training cell: its course, checkpoints and validations on the way, the test at its end, what it leaves.

What it leaves is a file (`bench.record.trained`) of the meta-parameters at the start, half-way and at the
end, with all that training on would need.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench import arrays, registry
from bench.api import Split, Vector
from bench.arrays import Arrays, DamagedError
from bench.at_once import asked
from bench.desk import Desk
from bench.inputs import Prepared
from bench.record import trained
from bench.record.trained import STAGE
from bench.spec import STAGES
from bench.start import KEY
from bench.train import Course, Training, evaluate

CHECKPOINT_S = 20.0
POINTS = 100  # of a curve in a record; the file has all
ON_THE_WAY: Split = "val"
AT_THE_END: Split = "test"  # whose classes are looked at once
_VALIDATED = "validated."
_MISFITS = (IndexError, TypeError, ValueError, RuntimeError)  # of arrays that are no checkpoint
_NUMBERS = ("mean", "deviation", "half_width")


def train(cell_id: str, description: dict[str, Any], cell: Prepared, desk: Desk) -> dict[str, Any]:
    """Train to the end, from the checkpoint where there is one; returns the record's part.

    Raises `DivergedError`, `StoreError`, and what plugins raise.
    """
    course = _course(description, cell)
    own = cell.meta if KEY in description else None
    steps, way = description["outer_steps"], _Way(Training(course, cell.engine, own))
    path = None if desk.folder is None else trained.checkpoint(desk.folder, cell_id)
    if path is not None and path.exists() and not desk.anew:
        kept = arrays.read(path)
        try:
            way.restore(kept, steps)
        except _MISFITS as error:
            raise DamagedError(f"{path} is no checkpoint of cell {cell_id} ({error}); delete it") from error
    training, begun = way.training, way.training.step
    at = stages(steps)
    validated = {steps * i // description["validations"] for i in range(description["validations"] + 1)}
    spent, saved = 0.0, time.monotonic()
    while True:
        if training.step in at:
            way.stages[at[training.step]] = training.theta
        if training.step in validated - way.validations.keys():
            found = evaluate(course, training.theta, ON_THE_WAY, description["validation_tasks"])
            way.validations[training.step] = found
        if training.step >= steps:
            break
        started = time.monotonic()
        training.advance()
        spent += time.monotonic() - started
        desk.progress(training.step, steps)
        if path is not None and time.monotonic() - saved > CHECKPOINT_S:
            arrays.write(path, way.checkpoint())
            saved = time.monotonic()
    tested = evaluate(course, training.theta, AT_THE_END, description["evaluation_tasks"])
    evaluated = [*way.validations.items(), (steps, tested)]
    return {
        "steps": steps,
        "resumed_at": begun,
        "curve": _curve(training),
        "evaluations": [{"step": step} | found for step, found in evaluated],
        "seconds_per_step": spent / (steps - begun) if steps > begun else None,
        "file": None if desk.folder is None else trained.keep(desk.folder, cell_id, way.checkpoint()),
    }


def stages(steps: int) -> dict[int, str]:
    """Step -> the name of the meta-parameters then, for those that are kept; one step has no half."""
    start, half, end = STAGES
    return dict(sorted({steps // 2: half, 0: start, steps: end}.items()))


@dataclass
class _Way:
    """A training and what was kept on its way: meta-parameters by stage, validations by step."""

    training: Training
    stages: dict[str, Vector] = field(default_factory=dict)
    validations: dict[int, dict[str, Any]] = field(default_factory=dict)

    def checkpoint(self) -> Arrays:
        """All that `restore` needs to go on as if nothing had happened."""
        found = self.validations.values()
        kept = {f"{STAGE}{name}": theta.cpu().numpy() for name, theta in self.stages.items()}
        kept[f"{_VALIDATED}step"] = np.array(list(self.validations), dtype=np.int64)
        kept[f"{_VALIDATED}n_tasks"] = np.array([one["n_tasks"] for one in found], dtype=np.int64)
        for key in ("loss", "accuracy"):
            if rows := [[one[key][k] for k in _NUMBERS] for one in found if one[key] is not None]:
                kept[f"{_VALIDATED}{key}"] = np.array(rows)
        return self.training.checkpoint() | kept

    def restore(self, kept: Arrays, steps: int) -> None:
        """Go on from a `checkpoint` of a training of so many steps.

        Raises `UsageError` where it is of another network, and any of `_MISFITS` where it is none.
        """
        own = (STAGE, _VALIDATED)
        needed = {"theta", "losses", "norms", f"{_VALIDATED}step", f"{_VALIDATED}n_tasks"}
        if lacking := needed - kept.keys():
            raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
        foreign = {n.removeprefix(STAGE) for n in kept if n.startswith(STAGE)} - set(STAGES)
        if foreign:
            raise ValueError(f"there is no stage {', '.join(sorted(foreign))}")
        if len(kept["losses"]) > steps:
            raise ValueError(f"it is after {len(kept['losses'])} steps, of {steps}")
        self.training.restore({name: value for name, value in kept.items() if not name.startswith(own)})
        for name, value in kept.items():
            if name.startswith(STAGE):
                if value.shape != kept["theta"].shape:
                    raise ValueError(f"'{name}' has shape {value.shape}")
                self.stages[name.removeprefix(STAGE)] = torch.from_numpy(value)
        for row, step in enumerate(kept[f"{_VALIDATED}step"].tolist()):
            n_tasks = int(kept[f"{_VALIDATED}n_tasks"][row])
            found: dict[str, Any] = {"split": ON_THE_WAY, "n_tasks": n_tasks}
            for key in ("loss", "accuracy"):
                rows = kept.get(f"{_VALIDATED}{key}")
                found[key] = None if rows is None else dict(zip(_NUMBERS, rows[row].tolist(), strict=True))
            self.validations[step] = found


def _course(description: dict[str, Any], cell: Prepared) -> Course:
    few = asked(description, cell.problem, cell.method)
    outer = registry.build("outer", description["outer"])
    return Course(
        cell.problem, cell.method, outer, description["n_tasks"], description["seed"],
        cell.meta.dtype, cell.device, few,
    )  # fmt: skip


def _curve(training: Training) -> dict[str, list[float]]:
    """Means over windows of equal length, by the last step of each."""
    windows = np.array_split(np.arange(training.step), min(POINTS, training.step)) if training.step else []
    losses, norms = np.array(training.losses), np.array(training.norms)
    return {
        "step": [int(window[-1]) + 1 for window in windows],
        "loss": [float(losses[window].mean()) for window in windows],
        "norm": [float(norms[window].mean()) for window in windows],
    }
