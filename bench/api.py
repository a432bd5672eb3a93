"""The contract between the harness and what it compares. Read this file first.

Everything is batch-first and flat: ``T`` tasks, ``P`` parameters of one network. The inner objective of
task ``t`` at the meta-parameters ``theta`` is

    G_t(phi) = support_loss_t(phi) + strength / 2 * ||phi - theta||^2

and the outer objective is ``query_loss_t(phi)`` at the adapted parameters. A *method* estimates, for every
task, the meta-gradient: the derivative of the outer objective with respect to ``theta``.

Plugins are frozen dataclasses whose fields are their hyper-parameters; parts (an inner solver, a linear
solver, a curvature) are fields too, so an ablation is a changed field. Classes here are abstract, classes
elsewhere are final: to alter a plugin, wrap it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

if TYPE_CHECKING:
    from bench.bilevel import Bilevel

Vector = Float[Tensor, " P"]
Vectors = Float[Tensor, "T P"]
PerTask = Shaped[Tensor, " T"]
Matvec = Callable[[Vectors], Vectors]
State = tuple[Tensor, ...]
Batching = Literal["vmap", "loop"]
Target = Literal["maml", "implicit"]
Split = Literal["train", "val", "test"]


class Declined(Exception):
    """Raised by a plugin that cannot serve this cell; the reason is stored in the record and shown."""


class InvalidValueError(ValueError):
    """A hyper-parameter with an impossible value: says which, what was got and what is allowed."""


def require(ok: bool, field: str, got: object, allowed: str) -> None:
    """Check one hyper-parameter in ``__post_init__``; raise `InvalidValueError` if it is not ``ok``."""
    if not ok:
        raise InvalidValueError(f"{field} = {got!r} is not possible; allowed: {allowed}")


@dataclass(frozen=True)
class Tasks:
    """A batch of ``T`` tasks. Every tensor has the task axis first; inputs and targets are per example."""

    support_x: Shaped[Tensor, "T n ..."]
    support_y: Shaped[Tensor, "T n ..."]
    query_x: Shaped[Tensor, "T m ..."]
    query_y: Shaped[Tensor, "T m ..."]

    def __len__(self) -> int:
        return len(self.support_x)

    def __getitem__(self, index: slice | Tensor) -> "Tasks":
        """A sub-batch; ``index`` keeps the task axis (a slice or a tensor of task numbers)."""
        return self._map(lambda x: x[index])

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> "Tasks":
        """Cast the floating-point tensors to ``dtype`` and move all of them to ``device``."""
        return self._map(lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None))

    def _map(self, f: Callable[[Tensor], Tensor]) -> "Tasks":
        return Tasks(f(self.support_x), f(self.support_y), f(self.query_x), f(self.query_y))


class Estimate(NamedTuple):
    """What a method returns. ``stats`` may hold `linear_residual`, `smallest_curvature`, `iterations`, ..."""

    meta_grad: Vectors
    adapted: Vectors
    converged: PerTask
    stats: dict[str, PerTask]


class Solution(NamedTuple):
    """What a solver returns: the last iterate, whether it met its own tolerance, and its statistics."""

    value: Vectors
    converged: PerTask
    stats: dict[str, PerTask]


class Problem(ABC):
    """A distribution of tasks and the two losses of one task. Fields are its hyper-parameters.

    ``strength`` is lambda of the proximal term. ``batching`` says how `Bilevel` batches the losses over
    tasks: "vmap" (small networks) or "loop" (convolutions on CPU, where vmap's grouped kernels lose).
    Losses use torch operations only and no in-place updates; batch norm is written out in elementary
    operations, because torch 2.13 differentiates `F.batch_norm` under vmap wrongly and without a warning.
    """

    strength: float

    @property
    def batching(self) -> Batching:
        """How `Bilevel` batches the losses over tasks."""
        return "vmap"

    @abstractmethod
    def init(self, generator: torch.Generator) -> Vector:
        """Meta-parameters ``theta`` at initialisation, float64 on the CPU."""

    @abstractmethod
    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        """Draw ``n_tasks`` tasks, float64 on the CPU. Raise `Declined` where the data are missing."""

    @abstractmethod
    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        """Loss of one task's support set at one flat parameter vector, without the proximal term."""

    def query_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        """Loss of one task's query set; the support loss unless a problem says otherwise."""
        return self.support_loss(phi, x, y)

    def query_accuracy(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""] | None:
        """Share of one task's query set classified rightly; None for problems that are no classification."""
        return None

    def fingerprint(self) -> str | None:
        """Names the stored data behind the tasks in the record; None where there are none."""
        return None

    def inner_solution(self, meta: Vectors, tasks: Tasks) -> Vectors | None:
        """The exact minimiser of G for every task, where it has a closed form; else None."""
        return None


class Network(ABC):
    """A function of a flat parameter vector and a batch of inputs. ``batching`` as in `Problem`."""

    batching: ClassVar[Batching] = "vmap"

    @abstractmethod
    def size(self, in_shape: tuple[int, ...], n_out: int) -> int:
        """Number of parameters ``P``."""

    @abstractmethod
    def init(self, generator: torch.Generator, in_shape: tuple[int, ...], n_out: int) -> Vector:
        """Initial parameters, float64 on the CPU."""

    @abstractmethod
    def forward(self, phi: Vector, x: Float[Tensor, "n ..."], n_out: int) -> Float[Tensor, "n out"]:
        """Outputs for inputs ``x`` of shape [n, *in_shape]."""


class InnerSolver(ABC):
    """Minimises G for all tasks from ``start``. ``steps`` is the number of iterations, where it has one."""

    @abstractmethod
    def __call__(self, bilevel: "Bilevel", start: Vectors) -> Solution: ...


class FirstOrderSolver(InnerSolver):
    """An inner solver that sees gradients only, so that exact MAML can be differentiated step by step.

    A step is ``phi, state = update(step, phi, grad, state)``: elementwise, differentiable in every tensor,
    without in-place changes; ``state`` holds tensors of phi's shape. It runs a fixed number of ``steps``.
    """

    steps: int

    @abstractmethod
    def init(self, start: Vectors) -> State:
        """The optimiser's state before the first step."""

    @abstractmethod
    def update(self, step: int, phi: Vectors, grad: Vectors, state: State) -> tuple[Vectors, State]:
        """Step number ``step`` (from 0)."""

    def __call__(self, bilevel: "Bilevel", start: Vectors) -> Solution:
        phi, state = start, self.init(start)
        for step in range(self.steps):
            phi, state = self.update(step, phi, bilevel.inner_grad(phi), state)
        return Solution(phi, torch.isfinite(phi.detach()).all(dim=1), {})


class LinearSolver(ABC):
    """Solves A x = rhs for all tasks, given the symmetric product v -> A v.

    Returns the last iterate, never an earlier one; ``stats`` hold `residual` (||rhs - A x|| / ||rhs|| of
    that very iterate), `iterations`, and `smallest_curvature` (the least p'Ap / p'p seen) where known.
    A tolerance is relative to ||rhs||; a tolerance of 0 asks for all iterations and counts as met.
    """

    @abstractmethod
    def __call__(self, matvec: Matvec, rhs: Vectors) -> Solution: ...


class Curvature(ABC):
    """The product with the Hessian of G at ``phi``, exact or approximate."""

    @abstractmethod
    def __call__(self, bilevel: "Bilevel", phi: Vectors) -> Matvec: ...


class Method(ABC):
    """Estimates the meta-gradient of every task.

    ``exact`` is the promise that the estimate equals one of the two true meta-gradients up to rounding:
    "maml" (through the K inner steps taken) or "implicit" (at the inner minimiser); None promises nothing.
    """

    exact: ClassVar[Target | None] = None

    @abstractmethod
    def __call__(self, bilevel: "Bilevel") -> Estimate: ...
