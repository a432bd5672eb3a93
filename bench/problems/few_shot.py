"""N-way K-shot classification: the sampler that all image problems share.

A task is drawn from N classes that are new to it: K support and Q query images of each, no image in both,
and the classes numbered 0 to N - 1 in random order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from bench.api import Declined, Network, Split, Tasks, Vector, require
from bench.data import fingerprint
from bench.errors import UsageError


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images by class with a class-disjoint split.

    name: for messages. images: I images of each of C classes, 255 is full ink. classes: their names.
    splits: the class numbers of every split. fingerprint: SHA-256 of all of this.
    """

    name: str
    images: UInt8[np.ndarray, "C I h w"]
    classes: tuple[str, ...]
    splits: Mapping[str, Int[np.ndarray, " c"]]
    fingerprint: str

    @classmethod
    def of(
        cls, name: str, images: np.ndarray, classes: Sequence[str], split: Sequence[str]
    ) -> "ImageClasses":
        """From uint8 [C, I, h, w], and for every class its name and its split."""
        sides = np.array(split)
        splits = {side: np.flatnonzero(sides == side) for side in np.unique(sides).tolist()}
        arrays = {"images": images, "classes": np.array(classes), "split": sides}
        return cls(name, images, tuple(classes), splits, fingerprint(arrays))


def require_few_shot(ways: int, shots: int, queries: int, strength: float, input_scale: float) -> None:
    """Check the fields that every few-shot problem has."""
    require(ways >= 2, "ways", ways, "2 or more")
    require(shots >= 1, "shots", shots, "1 or more")
    require(queries >= 1, "queries", queries, "1 or more")
    require(strength >= 0, "strength", strength, "0 or more")
    require(input_scale > 0, "input_scale", input_scale, "a positive number")


def sample(
    data: ImageClasses,
    generator: torch.Generator,
    n_tasks: int,
    split: Split,
    *,
    ways: int,
    shots: int,
    queries: int,
    rotations: bool = False,
    input_scale: float = 1.0,
) -> Tasks:
    """Draw tasks. Inputs are [T, ways * (shots or queries), 1, h, w] in [0, 1], float64; labels are int64.

    Inputs are multiplied by ``input_scale``.

    With ``rotations`` every class counts four times, turned by 0, 90, 180 and 270 degrees. Task i is the same
    whatever ``n_tasks`` is: each has a generator of its own, seeded in turn from ``generator``.
    Raises `UsageError` where the split has too few classes or the classes have too few images, and `Declined`
    where there is no such split.
    """
    if split not in data.splits:
        raise Declined(f"{data.name} has no split '{split}'; it has: {', '.join(data.splits)}")
    turns = 4 if rotations else 1
    classes = data.splits[split]
    n_classes, n_images = turns * len(classes), data.images.shape[1]
    if ways > n_classes:
        raise UsageError(
            f"{ways}-way tasks need {ways} classes; {data.name} has {n_classes} in its split '{split}'. "
            f"Choose ways = {n_classes} or fewer"
        )
    if shots + queries > n_images:
        raise UsageError(
            f"{shots} support and {queries} query images per class need {shots + queries} images; "
            f"{data.name} has {n_images} per class. Choose shots + queries = {n_images} or fewer"
        )
    drawn = np.empty((n_tasks, ways, shots + queries, 1, *data.images.shape[2:]))
    for task in drawn:
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator().manual_seed(seed)
        for place, number in zip(task, torch.randperm(n_classes, generator=own)[:ways].tolist(), strict=True):
            rows = torch.randperm(n_images, generator=own)[: shots + queries].numpy()
            images = data.images[classes[number // turns], rows]
            place[:, 0] = np.rot90(images, number % turns, axes=(1, 2)) / 255
    images = torch.from_numpy(drawn) if input_scale == 1 else input_scale * torch.from_numpy(drawn)
    labels = torch.arange(ways)
    return Tasks(
        images[:, :, :shots].flatten(1, 2),
        labels.repeat_interleave(shots).repeat(n_tasks, 1),
        images[:, :, shots:].flatten(1, 2),
        labels.repeat_interleave(queries).repeat(n_tasks, 1),
    )


def accuracy(network: Network, phi: Vector, x: Tensor, y: Tensor, ways: int) -> Float[Tensor, ""]:
    """Share of one task's examples whose largest output is at their label; of ``phi``'s type."""
    right = network.forward(phi, x, ways).argmax(dim=1) == y
    return right.to(phi.dtype).mean()
