"""The problem side of the contract: tasks, the losses of one task, and the networks in them.

Problems are written for one task and one flat parameter vector; `bench.bilevel` batches them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from bench.plugin import Declined, Plugin

Vector = Float[Tensor, " P"]
Vectors = Float[Tensor, "T P"]
PerTask = Shaped[Tensor, " T"]
Batching = Literal["vmap", "loop"]
Split = Literal["train", "val", "test"]


def finite(x: Vectors) -> PerTask:
    """Whether all numbers of a task are finite: 0 times any other is not 0. One pass, and no mask of all."""
    return (0 * x.detach()).sum(dim=1) == 0


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


class Problem(Plugin, ABC):
    """A distribution of tasks and the two losses of one task. Fields are its hyper-parameters.

    ``strength`` is lambda of the proximal term. ``batching`` says how `Bilevel` batches the losses over
    tasks: "vmap" (small networks) or "loop" (convolutions on CPU, where vmap's grouped kernels lose).
    Losses use torch operations only and no in-place updates; batch norm is written out in elementary
    operations, because torch 2.13 differentiates `F.batch_norm` under vmap wrongly and without a warning.
    ``duplicates`` is the share of a split's examples, at most, that published data hold in another one too.
    """

    duplicates: ClassVar[float] = 0.0
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

    def outputs(self, phi: Vector, x: Tensor) -> Tensor:
        """The network's outputs z for one task's support inputs, where the support loss is a convex
        function `output_loss` of them: what the Gauss-Newton curvature needs. Else `Declined`."""
        raise Declined(f"{type(self).__name__} does not split its loss into outputs and a loss of them")

    def output_loss(self, z: Tensor, y: Tensor) -> Float[Tensor, ""]:
        """The support loss of one task as a function of its `outputs`."""
        raise Declined(f"{type(self).__name__} does not split its loss into outputs and a loss of them")

    def query_accuracy(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""] | None:
        """Share of one task's query set classified rightly; None for problems that are no classification."""
        return None

    def fingerprint(self) -> str | None:
        """Names the stored data behind the tasks in the record; None where there are none."""
        return None

    def inner_solution(self, meta: Vectors, tasks: Tasks) -> Vectors | None:
        """The exact minimiser of G for every task, where it has a closed form; else None."""
        return None


class Network(Plugin, ABC):
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
