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
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from bench.bilevel import Bilevel
from bench.counts import Counts
from bench.plugin import Declined, InvalidValueError, Plugin, Resources, require
from bench.precision import CastGradients, CastProduct, Precision, cast, dtype_of, require_scale
from bench.products import fused
from bench.tasks import Batching, Network, PerTask, Problem, Split, Tasks, Vector, Vectors, finite

__all__ = [
    "Batching",
    "Bilevel",
    "CastGradients",
    "CastProduct",
    "Counts",
    "Curvature",
    "Declined",
    "Estimate",
    "FirstOrderSolver",
    "InnerSolver",
    "InvalidValueError",
    "LinearSolver",
    "Matvec",
    "Method",
    "Network",
    "Noise",
    "OuterOptimizer",
    "PerTask",
    "Plugin",
    "Precision",
    "Preconditioner",
    "Problem",
    "Resources",
    "Solution",
    "Split",
    "State",
    "Target",
    "Tasks",
    "Vector",
    "Vectors",
    "cast",
    "dtype_of",
    "finite",
    "fused",
    "require",
    "require_scale",
]

Matvec = Callable[[Vectors], Vectors]
Noise = Callable[[int], Vectors]  # the number of a draw -> standard normal numbers; `Bilevel.noise`
State = tuple[Tensor, ...]
Target = Literal["maml", "implicit"]


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


class InnerSolver(Plugin, ABC):
    """Minimises G for all tasks from ``start``. ``steps`` is the number of iterations, where it has one."""

    @abstractmethod
    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution: ...

    def cost(self) -> Counts | None:
        """Oracle calls of one solve; None where they depend on the data."""
        return None

    def unrounded(self) -> "InnerSolver":
        """The solver that this one is up to rounding, for the references: another one in a wrapper only."""
        return self


class FirstOrderSolver(InnerSolver):
    """An inner solver that sees gradients only, so that exact MAML can be differentiated step by step.

    A step is ``phi, state = update(phi, grad, state, *schedule(step))``: elementwise, differentiable in every
    tensor, without in-place changes; ``state`` holds tensors of phi's shape. What varies from step to step
    beside them are the numbers of ``schedule``, so that one compiled kernel serves every step. It runs a
    fixed number of ``steps``.
    """

    steps: int

    @abstractmethod
    def init(self, start: Vectors) -> State:
        """The optimiser's state before the first step."""

    def schedule(self, step: int) -> tuple[float, ...]:
        """The numbers that step number ``step`` (from 0) takes; none unless a solver says so."""
        return ()

    @abstractmethod
    def update(self, phi: Vectors, grad: Vectors, state: State, *numbers: float) -> tuple[Vectors, State]:
        """One step with the inner gradient ``grad`` at ``phi`` and the step's ``numbers``."""

    def rule(self) -> "FirstOrderSolver":
        """A solver with the same `update`, to name its kernel by: the same for every number of steps, where
        `update` does not look at it."""
        return self

    def __call__(self, bilevel: Bilevel, start: Vectors) -> Solution:
        phi, state = start, self.init(start)
        advance = bilevel.fused(self.advance, self)
        for step in range(self.steps):
            phi, state = advance(phi, state, self.schedule(step))
        return Solution(phi, finite(phi), {})

    @staticmethod
    def advance(
        bilevel: Bilevel, solver: "FirstOrderSolver", phi: Vectors, state: State, numbers: tuple[float, ...]
    ) -> tuple[Vectors, State]:
        """One inner step of ``solver``, its gradient included: for `Bilevel.fused`."""
        return solver.update(phi, bilevel.inner_grad(phi), state, *numbers)

    def cost(self) -> Counts:
        return Counts(inner_grads=self.steps)


class LinearSolver(Plugin, ABC):
    """Solves A x = rhs for all tasks, given the symmetric product v -> A v.

    Starts from ``start`` (zero if None; a direct solver has no use for it). Returns the last iterate, never
    an earlier one; ``stats`` hold `residual` (||rhs - A x|| / ||rhs|| of that iterate), `iterations`, and
    `smallest_curvature` (the least p'Ap / p'p seen) where known. A tolerance is relative to ||rhs||; a
    positive one is judged, and `residual` reported, on rhs - A x itself, by one more product if need be. A
    tolerance of 0 asks for all iterations and counts as met, unless the solver sees that it failed: a product
    that is not finite, divergence. There `residual` may be that of the solver's recurrence, equal up to
    rounding. A lost task does not touch the others. ``noise`` is for stochastic solvers. ``krylov`` promises
    the exact solution after P iterations on a positive definite A.
    """

    krylov: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution: ...

    def products(self, n_params: int) -> int | None:
        """Products with A that one solve from zero takes; None where they depend on the data."""
        return None


class Preconditioner(Plugin, ABC):
    """Builds the map r -> M^-1 r of every task, M a cheap symmetric positive definite stand-in for A."""

    @abstractmethod
    def __call__(self, matvec: Matvec, like: Vectors, noise: Noise | None = None) -> Matvec:
        """``like`` is a tensor of the shape, dtype and device of the vectors."""

    @abstractmethod
    def products(self, n_params: int) -> int:
        """Products with A that building it takes."""


class Curvature(Plugin, ABC):
    """The product with the Hessian of G at ``phi``, exact or approximate."""

    @abstractmethod
    def __call__(self, bilevel: Bilevel, phi: Vectors) -> Matvec: ...

    def cost(self, products: int) -> Counts | None:
        """Oracle calls of the linearisation and ``products`` products; None where unknown."""
        return None


class OuterOptimizer(Plugin, ABC):
    """Moves the meta-parameters along the meta-gradient, averaged over a batch of tasks."""

    @abstractmethod
    def optimizer(self, theta: Tensor) -> Optimizer:
        """The optimizer of torch for ``theta`` [P], a leaf, which it updates in place from ``theta.grad``.

        Its state for theta holds tensors and numbers only, so that a checkpoint can hold it.
        """


class Method(Plugin, ABC):
    """Estimates the meta-gradient of every task.

    ``exact`` is the promise that the estimate equals one of the two true meta-gradients up to rounding:
    "maml" (through the K inner steps taken) or "implicit" (at the inner minimiser); None promises nothing.
    ``limit`` promises it for parts that have converged: an inner solver and a linear one run to the end.
    ``unbiased`` promises for a stochastic method that its mean over seeds does. ``float32_error`` is how far
    rounding may take float32 from float64 on a well-conditioned problem. ``in_torch`` False says that the
    work is done outside torch, where the meter of tensor bytes sees nothing.
    """

    exact: ClassVar[Target | None] = None
    limit: ClassVar[Target | None] = None
    unbiased: ClassVar[Target | None] = None
    float32_error: ClassVar[float] = 1e-2
    in_torch: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, bilevel: Bilevel) -> Estimate: ...

    def cost(self, n_params: int) -> Counts | None:
        """Oracle calls of one estimate with ``n_params`` parameters; None where they depend on the data."""
        return None
