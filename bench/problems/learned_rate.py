"""Meta-learning the inner step: any problem, with one more meta-parameter that is none of its network's."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bench.api import Batching, Problem, Split, Tasks, Vector, Vectors
from bench.problems.sinusoid import Sinusoid
from bench.registry import register


@register("problem", "learned_rate")
@dataclass(frozen=True)
class LearnedRate(Problem):
    """``problem`` with theta = (w, c), c the logarithm of a factor on the inner step; 0 at the start.

    The inner solver `learned_rate` steps by learning_rate * exp(c); to any other, c is a parameter that no
    loss looks at (Meta-SGD, Li et al. 2017, has such a factor for every weight). The proximal term holds
    phi's c at theta's, and the minimiser of G in w does not depend on it: the exact implicit gradient in c is
    0, whatever the query loss would gain by another step. The derivative through the K steps is not.
    """

    problem: Problem = field(default_factory=Sinusoid)

    @property
    def strength(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.problem.strength

    @property
    def batching(self) -> Batching:
        return self.problem.batching

    def init(self, generator: torch.Generator) -> Vector:
        w = self.problem.init(generator)
        return torch.cat([w, w.new_zeros(1)])

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        return self.problem.sample(generator, n_tasks, split)

    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor:
        return self.problem.support_loss(phi[:-1], x, y)

    def query_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor:
        return self.problem.query_loss(phi[:-1], x, y)

    def outputs(self, phi: Vector, x: Tensor) -> Tensor:
        return self.problem.outputs(phi[:-1], x)

    def output_loss(self, z: Tensor, y: Tensor) -> Tensor:
        return self.problem.output_loss(z, y)

    def query_accuracy(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor | None:
        return self.problem.query_accuracy(phi[:-1], x, y)

    def fingerprint(self) -> str | None:
        return self.problem.fingerprint()

    def inner_solution(self, meta: Vectors, tasks: Tasks) -> Vectors | None:
        w = self.problem.inner_solution(meta[:, :-1], tasks)
        return None if w is None else torch.cat([w, meta[:, -1:]], dim=1)
