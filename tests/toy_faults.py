"""First-order MAML, but for what it does in a Slurm job: waits to be hurt, raises, takes all memory."""

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.api import Bilevel, Estimate, InnerSolver, Method
from bench.registry import register
from methods.inner import GradientDescent

FOLDER = "METABENCH_TOY_FAULTS"  # where cells and test leave each other notes
MIB = 1 << 20


@register("method", "toy-faults")
@dataclass(frozen=True)
class ToyFaults(Method):
    """The query gradient at phi, after the misfortune that the cell's fields name."""

    inner: InnerSolver = field(default_factory=GradientDescent)
    fault: Literal["none", "hold", "raise", "exhaust"] = "none"
    tag: str = ""

    def __call__(self, bilevel: Bilevel) -> Estimate:
        if "SLURM_JOB_ID" in os.environ:
            self._misbehave(Path(os.environ[FOLDER]))
        phi, converged, stats = self.inner(bilevel, bilevel.start)
        if "SLURM_JOB_ID" in os.environ:
            (Path(os.environ[FOLDER]) / f"{self.tag}.{uuid.uuid4().hex}.finished").touch()
        return Estimate(bilevel.outer_grad(phi), phi, converged, stats)

    def _misbehave(self, folder: Path) -> None:
        match self.fault:
            case "raise":
                raise ArithmeticError("two and two make five")
            case "exhaust":
                hoard = []
                while True:
                    hoard.append(b"x" * (64 * MIB))
                    time.sleep(0.1)  # Slurm looks once a second
            case "hold":
                hold(folder, self.tag)


def hold(folder: Path, tag: str) -> None:
    """Tell the test where this cell runs, and wait until it lets go."""
    names = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURMD_NODENAME")
    note = {name: os.environ.get(name) for name in names} | {"pid": os.getpid(), "parent": os.getppid()}
    (folder / f"{tag}.new").write_text(json.dumps(note))
    os.replace(folder / f"{tag}.new", folder / f"{tag}.held")
    while not (folder / f"{tag}.go").exists():
        time.sleep(0.1)
