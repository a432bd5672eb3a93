"""Parts of a computation in another precision: vectors are cast on the way in and on the way out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from bench.bilevel import Bilevel
from bench.plugin import require
from bench.tasks import Batching, PerTask, Problem, Split, Tasks, Vector, Vectors, finite

Precision = Literal["float64", "float32", "bfloat16", "float16"]
GROWTH = 20  # finite gradients in a row after which a dynamic loss scale is doubled
LARGEST = 2.0**24  # which it does not pass


def dtype_of(name: str) -> torch.dtype:
    """The torch type of a precision's name; "tf32" is a mode of float32."""
    return torch.float32 if name == "tf32" else getattr(torch, name)


def require_scale(scale: float) -> None:
    """Check the field `loss_scale`: with powers of two, scaling rounds nothing."""
    allowed = "a power of two, 1 or more: 1, 2, 4, ..."
    require(math.isfinite(scale) and scale >= 1 and math.frexp(scale)[0] == 0.5, "loss_scale", scale, allowed)


@dataclass(frozen=True)
class ScaledLoss(Problem):
    """``problem`` with G and the query loss times ``scale``, and so all gradients and products.

    In float16, what is below 6e-8 is 0, on the way through the network too; larger, it survives, and is
    divided by ``scale`` in a wider format.
    """

    problem: Problem
    scale: float
    strength: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", self.scale * self.problem.strength)

    @property
    def batching(self) -> Batching:
        return self.problem.batching

    def init(self, generator: torch.Generator) -> Vector:
        return self.problem.init(generator)

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        return self.problem.sample(generator, n_tasks, split)

    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * self.problem.support_loss(phi, x, y)

    def query_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * self.problem.query_loss(phi, x, y)

    def outputs(self, phi: Vector, x: Tensor) -> Tensor:
        return self.problem.outputs(phi, x)

    def output_loss(self, z: Tensor, y: Tensor) -> Tensor:
        return self.scale * self.problem.output_loss(z, y)

    def query_accuracy(self, phi: Vector, x: Tensor, y: Tensor) -> Tensor | None:
        return self.problem.query_accuracy(phi, x, y)

    def inner_solution(self, meta: Vectors, tasks: Tasks) -> Vectors | None:
        return self.problem.inner_solution(meta, tasks)


def cast(bilevel: Bilevel, dtype: torch.dtype, scale: float = 1.0) -> Bilevel:
    """The same tasks and the same counters in ``dtype``, G and the query loss times ``scale``.

    ``bilevel`` itself where that changes nothing.
    """
    if dtype == bilevel.meta.dtype and scale == 1:
        return bilevel
    problem = bilevel.problem if scale == 1 else ScaledLoss(bilevel.problem, scale)
    tasks, meta = bilevel.tasks.to(dtype=dtype), bilevel.meta.to(dtype)
    other = Bilevel(problem, tasks, meta, bilevel.calls, bilevel.seeds, engine=bilevel.engine)
    other._weight = bilevel._weight
    other._nudge = None if bilevel._nudge is None else bilevel._nudge.to(dtype)
    return other


class CastProduct:
    """v -> A v for v of any dtype, in v's dtype; ``matvec``, in ``dtype``, is the product with scale * A."""

    def __init__(self, matvec: Callable[[Vectors], Vectors], dtype: torch.dtype, scale: float = 1.0):
        self._matvec, self._dtype, self._scale = matvec, dtype, scale

    def __call__(self, v: Vectors) -> Vectors:
        product = self._matvec(v.to(self._dtype)).to(v.dtype)
        return product if self._scale == 1 else product / self._scale


class CastGradients:
    """An engine that takes `Bilevel.inner_grad` in ``dtype``, of the loss times ``scale``; all else as it is.

    ``dynamic`` is the scaling usual in mixed precision (Micikevicius et al. 2018), task by task: where a
    gradient is not finite the scale is halved and the gradient taken again, down to 1; after `GROWTH` finite
    ones it is doubled. It is made for ``bilevel`` and hands on to the engine of that.
    """

    def __init__(self, bilevel: Bilevel, dtype: torch.dtype, scale: float, dynamic: bool):
        self._dtype, self._first, self._dynamic, self._beneath = dtype, scale, dynamic, bilevel.engine
        self._begin(bilevel)

    def _begin(self, bilevel: Bilevel) -> None:
        self._of = bilevel
        self._cast: dict[float, Bilevel] = {}
        self.scale: PerTask = torch.full((len(bilevel.tasks),), self._first, dtype=torch.float64)
        self.halvings: PerTask = torch.zeros_like(self.scale)
        self._streak: PerTask = torch.zeros_like(self.scale)

    def kernel(
        self,
        bilevel: Bilevel,
        function: Callable,
        *static: Any,
        given: tuple[Tensor, ...] = (),
        eager: Callable | None = None,
    ) -> Callable:
        """See `bench.bilevel.Engine`."""
        if function is Bilevel.inner_grad:
            return partial(self._gradient, bilevel)
        under = bilevel.at(bilevel.meta)
        under.engine = self._beneath
        if given:  # a product
            if self._beneath is not None:
                return self._beneath.kernel(under, function, *static, given=given, eager=eager)
            return eager or partial(function, under, *static, *given)
        if function in (Bilevel.outer_grad, Bilevel.inner_grad_and_hvp):
            return partial(function, under, *static)
        return partial(function, bilevel, *static)

    def _gradient(self, bilevel: Bilevel, phi: Vectors) -> Vectors:
        if self._of is not bilevel:
            self._begin(bilevel)
        if not self._dynamic:
            return self._at(phi, self._first)
        grad, left = torch.empty_like(phi), torch.ones_like(self.scale, dtype=torch.bool)
        while left.any():
            scale = float(self.scale[left].max())
            rows, found = left & (self.scale == scale), self._at(phi, scale)
            good = rows & (finite(found).to(left.device) | (scale <= 1))
            grad = torch.where(good[:, None].to(phi.device), found, grad)
            bad = rows & ~good
            self.scale = torch.where(bad, self.scale / 2, self.scale)
            self.halvings, self._streak = self.halvings + bad, torch.where(bad, 0, self._streak)
            left = left & ~good
        self._streak = self._streak + 1
        grown = (self._streak >= GROWTH) & (self.scale < LARGEST)
        self.scale = torch.where(grown, 2 * self.scale, self.scale)
        self._streak = torch.where(grown, 0, self._streak)
        return grad

    def _at(self, phi: Vectors, scale: float) -> Vectors:
        if scale not in self._cast:
            under = self._of.at(self._of.meta)
            under.engine = self._beneath
            self._cast[scale] = cast(under, self._dtype, scale)
        grad = self._cast[scale].inner_grad(phi.to(self._dtype)).to(phi.dtype)
        return grad if scale == 1 else grad / scale
