"""A small smooth problem and a method that fails in every way, registered on import: see `test_run.toys`."""

import os
import sys
import warnings
from dataclasses import dataclass, field
from typing import Literal

import torch

from bench.api import Declined, Estimate, FirstOrderSolver, InnerSolver, Method, Problem, Tasks
from bench.registry import register

MB = 2**20
Behaviour = Literal[
    "good", "raise", "runtime", "nan", "half-nan", "memory", "allocator", "decline", "stall", "shape",
    "dtype", "tuple", "stat", "random", "print", "write-input", "allocate", "late-raise", "late-memory",
    "raise-in-child",
]  # fmt: skip


@register("problem", "toy")
@dataclass(frozen=True)
class Toy(Problem):
    """A tanh unit per row: smooth, not quadratic, five parameters. ``fault`` makes the sampler fail."""

    strength: float = 3.0
    fault: Literal["none", "decline", "raise"] = "none"

    def init(self, generator):
        return torch.randn(5, generator=generator, dtype=torch.float64)

    def sample(self, generator, n_tasks, split="train"):
        if self.fault == "decline":
            raise Declined("no toys on this machine")
        if self.fault == "raise":
            raise LookupError("the toy box is empty")
        x = torch.randn(n_tasks, 8, 5, generator=generator, dtype=torch.float64)
        y = torch.randn(n_tasks, 8, generator=generator, dtype=torch.float64)
        return Tasks(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])

    def support_loss(self, phi, x, y):
        return (torch.tanh(x @ phi) - y).square().mean()


@register("inner", "toy-descent")
@dataclass(frozen=True)
class ToyDescent(FirstOrderSolver):
    """Gradient descent; with ``broken`` its steps cannot be repeated."""

    steps: int = 3
    rate: float = 0.1
    broken: bool = False

    def init(self, start):
        return ()

    def update(self, phi, grad, state):
        if self.broken:
            raise ArithmeticError("this step breaks")
        return phi - self.rate * grad, state


calls = 0


@register("method", "toy-method")
@dataclass(frozen=True)
class ToyMethod(Method):
    """First-order MAML on good days."""

    behaviour: Behaviour = "good"
    inner: InnerSolver = field(default_factory=ToyDescent)

    def __call__(self, bilevel):
        global calls
        calls += 1
        phi = bilevel.start if self.inner.broken else self.inner(bilevel, bilevel.start).value
        good = Estimate(bilevel.outer_grad(phi), phi, torch.ones(len(phi), dtype=torch.bool), {})
        return _spoil(self.behaviour, bilevel, good)


@register("method", "toy-plain")
@dataclass(frozen=True)
class ToyPlain(Method):
    """The query gradient at theta: no inner solver."""

    def __call__(self, bilevel):
        start = bilevel.start
        return Estimate(bilevel.outer_grad(start), start, torch.ones(len(start), dtype=torch.bool), {})


def _spoil(behaviour, bilevel, good):
    grad = good.meta_grad
    in_child = "MALLOC_ARENA_MAX" in os.environ
    match behaviour:
        case "raise":
            raise KeyError("lost")
        case "runtime":
            raise RuntimeError("sizes differ")
        case "nan":
            return good._replace(meta_grad=grad * torch.nan)
        case "half-nan":
            return good._replace(
                meta_grad=torch.where(torch.arange(len(grad))[:, None] == 1, torch.inf, grad)
            )
        case "memory":
            raise MemoryError
        case "allocator":
            torch.empty(2**52, dtype=torch.uint8)
        case "decline":
            raise Declined("toys do not do this")
        case "stall":
            stats = {"linear_residual": torch.full((len(grad),), 0.25), "iterations": torch.arange(len(grad))}
            return good._replace(converged=torch.arange(len(grad)) != 1, stats=stats)
        case "shape":
            return good._replace(meta_grad=grad.sum(dim=0))
        case "dtype":
            return good._replace(adapted=good.adapted.to(torch.float32))
        case "tuple":
            return tuple(good)
        case "stat":
            return good._replace(stats={"iterations": torch.tensor(3)})
        case "random":
            return good._replace(meta_grad=grad + torch.randn(grad.shape, dtype=grad.dtype))
        case "print":
            print("a plugin that talks")
            sys.stdout.flush()
            warnings.simplefilter("ignore")
        case "write-input":
            bilevel.meta.zero_()
        case "allocate":
            torch.zeros(200 * MB, dtype=torch.uint8)
        case "late-raise" if calls > 1:
            raise ArithmeticError("not twice")
        case "late-memory" if calls > 1:
            raise MemoryError
        case "raise-in-child" if in_child:
            raise LookupError("lost in the child")
    return good
