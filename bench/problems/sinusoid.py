"""Few-shot regression of sinusoids, with the ranges of Finn et al. 2017 (MAML), section 5.1."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from bench.api import Batching, Network, Problem, Split, Tasks, Vector, require
from bench.problems.networks import MLP
from bench.registry import register


@register("problem", "sinusoid")
@dataclass(frozen=True)
class Sinusoid(Problem):
    """y = a sin(x - p) with a in [0.1, 5], p in [0, pi], x in [-5, 5], all uniform; mean squared error.

    The default ``strength`` of 40 makes the inner problem convex at a random initialisation, so that the
    implicit gradient exists; with the paper's 0.5 the inner Hessian there is indefinite. The network sees x
    times ``scale * input_scale`` and y times ``scale``.
    """

    shots: int = 10
    queries: int = 10
    strength: float = 40.0
    network: Network = field(default_factory=MLP)
    scale: float = 1.0
    input_scale: float = 1.0
    later: ClassVar[tuple[str, ...]] = ("scale", "input_scale")

    def __post_init__(self) -> None:
        require(self.shots >= 1, "shots", self.shots, "1 or more points")
        require(self.queries >= 1, "queries", self.queries, "1 or more points")
        require(self.strength >= 0, "strength", self.strength, "0 or more")
        require(self.scale > 0, "scale", self.scale, "a positive number")
        require(self.input_scale > 0, "input_scale", self.input_scale, "a positive number")

    @property
    def batching(self) -> Batching:
        return self.network.batching

    def init(self, generator: torch.Generator) -> Vector:
        return self.network.init(generator, (1,), 1)

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        n = self.shots + self.queries
        draws = torch.rand(n_tasks, 2 + n, generator=generator, dtype=torch.float64)
        amplitude = 0.1 + 4.9 * draws[:, 0, None, None]
        phase = math.pi * draws[:, 1, None, None]
        x = 10 * draws[:, 2:, None] - 5
        y = self.scale * amplitude * torch.sin(x - phase)
        x = self.scale * self.input_scale * x
        k = self.shots
        return Tasks(x[:, :k], y[:, :k], x[:, k:], y[:, k:])

    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor:
        return self.output_loss(self.outputs(phi, x), y)

    def outputs(self, phi: Vector, x: Tensor) -> Tensor:
        return self.network.forward(phi, x, 1)

    def output_loss(self, z: Tensor, y: Tensor) -> Tensor:
        return (z - y).square().mean()
