"""Small plugins, and runners that behave badly, for the tests of the harness itself."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench import worker
from bench.api import Estimate, InnerSolver, LinearSolver, Method, Problem, Solution, require
from bench.cells import Cell, cell_id
from bench.desk import Desk
from bench.record import SCHEMA


@dataclass(frozen=True)
class ToyProblem(Problem):
    """A problem with a field of every sort that a study may set."""

    condition: float = 6.0
    size: int = 3
    hidden: tuple[int, ...] = (4, 4)
    strength: float = 1.0
    noisy: bool = False

    def __post_init__(self):
        require(self.condition >= 1, "condition", self.condition, "at least 1")

    def init(self, generator) -> Tensor:
        raise NotImplementedError

    def sample(self, generator, n_tasks, split="train"):
        raise NotImplementedError

    def support_loss(self, phi, x, y) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyInner(InnerSolver):
    steps: int = 10
    rate: float | None = None

    def __call__(self, bilevel, start) -> Solution:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyLinear(LinearSolver):
    iterations: int = 5

    def __call__(self, matvec, rhs, start=None, noise=None) -> Solution:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyMethod(Method):
    """A method with parts."""

    inner: InnerSolver = field(default_factory=ToyInner)
    linear: LinearSolver = field(default_factory=ToyLinear)
    backward: Literal["adjoint", "unrolled"] = "adjoint"

    def __call__(self, bilevel) -> Estimate:
        raise NotImplementedError


@dataclass(frozen=True)
class ToyPlain(Method):
    """A method without an inner solver."""

    scale: float = 1.0

    def __call__(self, bilevel) -> Estimate:
        raise NotImplementedError


# Not registered on import: the tests do it for a while, with the registry empty.
TOYS: dict[str, dict[str, type]] = {
    "problem": {"toy": ToyProblem},
    "inner": {"descent": ToyInner},
    "linear": {"krylov": ToyLinear},
    "method": {"parts": ToyMethod, "plain": ToyPlain},
}


HOARD = 1600 * 2**20  # bytes; torch for CUDA takes 600 MiB to begin with
_kept: list[bytearray] = []


def toy_cell(seed: int, action: str = "measure", folder: Path | None = None, problem: str = "toy") -> Cell:
    """A cell that tells `toy_runner` what to do; ``folder`` is where it leaves traces."""
    method = {"name": "toy", "action": action, "folder": str(folder)}
    settings = {"seed": seed, "threads": 1, "device": "cpu"}
    description = {"problem": {"name": problem}, "method": method, **settings}
    return Cell(cell_id(description), description)


def toy_runner(cell: Cell, study: str, desk: Desk) -> dict:
    """Does what the cell's method says, and returns the same record for the same cell."""
    action, folder = cell.description["method"]["action"], Path(cell.description["method"]["folder"])
    if action != "measure":
        trace = folder / f"{action}-{cell.description['seed']}"
        again = trace.exists()
        trace.write_text(str(os.getpid()))
        _misbehave(action, folder, again)
    return toy_record(cell, study)


def toy_record(cell: Cell, study: str) -> dict:
    norm = [1.0 / (1 + cell.description["seed"])]
    accuracy = {"adapted": {}, "stats": {}, "converged": [True], "meta_grad_norm": norm, "references": {}}
    return {
        "schema": SCHEMA,
        "id": cell.id,
        "study": study,
        "cell": cell.description,
        "status": "ok",
        "reason": None,
        "accuracy": accuracy,
        "started": "2026-01-01T00:00:00.000Z",
        "seconds": 0.0,
    }


def _misbehave(action: str, folder: Path, again: bool) -> None:
    match action:
        case "raise":
            raise ArithmeticError("two and two make five")
        case "print":
            print("a plugin that talks")
            sys.stdout.flush()
        case "kill-once" if not again:
            helper = subprocess.Popen(["sleep", "600"])
            (folder / "helper").write_text(str(helper.pid))
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit-once" if not again:
            sys.exit(3)
        case "spoil":  # what was to be a folder of results is a file
            (folder / "spoiled").write_text("")
        case "lose":  # as after an error of CUDA's that never goes away
            worker.lost = lambda device: True
        case "poison":  # an error of CUDA's that does so
            torch.zeros(1, device="cuda")[torch.full((1,), 2**20, device="cuda")].item()
        case "interrupt":
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(600)
        case "sleep":
            time.sleep(600)
        case "nap":
            time.sleep(2)
        case "hoard":
            held = bytearray(b"x") * HOARD
            time.sleep(600)
            del held
        case "keep":  # no more than allowed, but for good
            _kept.append(bytearray(b"x") * (HOARD // 2))


def core_runner(cell: Cell, study: str, desk: Desk) -> dict:
    """A runner whose records hold the cores that a program started by it may use."""
    code = "import os; print(*os.sched_getaffinity(0))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return toy_record(cell, study) | {"environment": {"cores": sorted(map(int, out.split()))}}


def wrong_record(cell: Cell, study: str, desk: Desk) -> dict:
    """A runner that mixes up its cells."""
    return toy_record(cell, study) | {"id": "0" * 16}


class Unloadable:
    """A runner that no worker process can load."""

    def __call__(self, cell: Cell, study: str) -> dict:
        raise NotImplementedError

    def __reduce__(self):
        return _refuse, ()


def _refuse() -> None:
    sys.exit(7)
