"""Where the time of a compiled cell goes: kernel by kernel, next to what its matrix products take alone."""

from collections.abc import Sequence
from dataclasses import dataclass

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

    The floor is the time of the kernel's matrix products, alone and on data of the same layout.
    """

    kernel: str
    calls: int
    seconds: float
    floor: float


@dataclass(frozen=True)
class Profile:
    """Seconds of one call of the method, of its kernels, and of what is between them (``rest``)."""

    seconds: float
    parts: tuple[Part, ...]

    @property
    def rest(self) -> float:
        return self.seconds - sum(part.seconds for part in self.parts)


def profile(cell: Prepared, rounds: int = ROUNDS) -> Profile:
    """Medians over ``rounds``. Every kernel is run again on the inputs that it had last."""
    assert isinstance(cell.engine, Engine)
    cell.run()
    with cell.engine.taped() as tape:
        cell.run()
    parts = []
    for name, calls in tape.items():
        kernel, values, kept = calls[-1]
        times = len(values[1]) if kernel.parts else 1
        seconds = measure.median_seconds(lambda k=kernel, v=values, r=kept: k(v, r), rounds, cell.device)
        floor = times * _seconds_of_products(kernel.products, cell.meta, rounds)
        parts.append(Part(name, len(calls), len(calls) * seconds, len(calls) * floor))
    parts.sort(key=lambda part: -part.seconds)
    return Profile(measure.median_seconds(cell.run, rounds, cell.device), tuple(parts))


def _seconds_of_products(products: Sequence[Product], like: Tensor, rounds: int) -> float:
    pairs = []
    for product in products:
        pairs.append([_filled(shape, strides, like) for shape, strides in product])

    def run() -> None:
        for a, b in pairs:
            torch.matmul(a, b)

    return measure.median_seconds(run, rounds, like.device) if pairs else 0.0


def _filled(shape: tuple[int, ...], strides: tuple[int, ...], like: Tensor) -> Tensor:
    x = torch.empty_strided(shape, strides, dtype=like.dtype, device=like.device)
    return x.copy_(torch.linspace(-1, 1, max(1, x.numel())).reshape(shape))
