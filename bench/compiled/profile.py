"""Where the time of a compiled cell goes: kernel by kernel, next to what its matrix products take alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench import measure
from bench.compiled.engine import Engine
from bench.compiled.kernel import Product
from bench.inputs import Prepared

ROUNDS = 31


@dataclass(frozen=True)
class Part:
    """One kernel of one call of the method, in seconds: all its ``calls``, and the ``floor`` of these.

    The floor is the time of the kernel's matrix products, each called alone, from Python, on data of the same
    layout. Of small ones it is the time of these calls, and the kernel may be below it.
    lowering: what made the kernel, "task by task" or "torch".
    """

    kernel: str
    lowering: str
    calls: int
    seconds: float
    floor: float


@dataclass(frozen=True)
class Profile:
    """Seconds of one call of the method, of its kernels, and of what is between them (``rest``).

    Each is a median of its own, so that by noise the kernels may add up to more than the call that they are
    part of: ``excess``, where the rest is not known and 0.
    """

    seconds: float
    parts: tuple[Part, ...]

    @property
    def rest(self) -> float:
        return max(0.0, self._difference)

    @property
    def excess(self) -> float:
        return max(0.0, -self._difference)

    @property
    def _difference(self) -> float:
        return self.seconds - sum(part.seconds for part in self.parts)


def profile(cell: Prepared, rounds: int = ROUNDS) -> Profile:
    """Medians over ``rounds``, in each of which all run once, kernels on the inputs that they had last."""
    assert isinstance(cell.engine, Engine)
    cell.run()
    with cell.engine.taped() as tape:
        cell.run()
    runs: list[measure.Run] = [cell.run]
    for calls in tape.values():
        kernel, values, kept = calls[-1]
        runs += [partial(kernel, values, kept), _products(kernel.products, cell.meta)]
    whole, *seconds = measure.median_seconds(runs, rounds, cell.device)
    parts = []
    for (name, calls), kernel_s, products_s in zip(tape.items(), seconds[::2], seconds[1::2], strict=True):
        kernel, values, _ = calls[-1]
        times = len(values[1]) if kernel.parts else 1  # the products are of one call of the graph
        n, how = len(calls), kernel.lowering
        parts.append(Part(name, how, n, n * kernel_s, n * times * products_s))
    return Profile(whole, tuple(sorted(parts, key=lambda part: -part.seconds)))


def _products(products: Sequence[Product], like: Tensor) -> measure.Run:
    pairs = [[_filled(shape, strides, like) for shape, strides in product] for product in products]

    def run() -> None:
        for a, b in pairs:
            torch.matmul(a, b)

    return run


def _filled(shape: tuple[int, ...], strides: tuple[int, ...], like: Tensor) -> Tensor:
    x = torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)
    return x.copy_(torch.linspace(-1, 1, max(1, x.numel())).reshape(shape))
