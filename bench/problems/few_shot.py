"""N-way K-shot classification: the sampler and the problem that all image problems share.

A task is drawn from N classes that are new to it: K support and Q query images of each, no image in both,
and the classes numbered 0 to N - 1 in random order.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.api import Batching, Declined, Network, Problem, Split, Tasks, Vector, require
from bench.data import fingerprint
from bench.errors import UsageError


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images by class with a class-disjoint split.

    name: for messages. images: I images of each of C classes, 255 is full ink or full colour; grey images
    have no axis of channels. classes: their names. splits: the class numbers of every split.
    fingerprint: SHA-256 of all of this.
    """

    name: str
    images: UInt8[np.ndarray, "C I *c h w"]
    classes: tuple[str, ...]
    splits: Mapping[str, Int[np.ndarray, " c"]]
    fingerprint: str

    @classmethod
    def of(
        cls, name: str, images: np.ndarray, classes: Sequence[str], split: Sequence[str]
    ) -> "ImageClasses":
        """From uint8 [C, I, h, w] or [C, I, c, h, w], and for every class its name and its split."""
        sides = np.array(split)
        splits = {side: np.flatnonzero(sides == side) for side in np.unique(sides).tolist()}
        arrays = {"images": images, "classes": np.array(classes), "split": sides}
        return cls(name, images, tuple(classes), splits, fingerprint(arrays))

    @property
    def pixels(self) -> UInt8[np.ndarray, "C I c h w"]:
        """The images with their channels, one where they are grey."""
        return self.images if self.images.ndim == 5 else self.images[:, :, None]

    @cached_property
    def moments(self) -> tuple[Float[np.ndarray, "c 1 1"], Float[np.ndarray, "c 1 1"]]:
        """Mean and deviation of every channel over the training classes' pixels in [0, 1].

        From counts of the 256 values, so that they are the same in whatever order they are summed. A channel
        that is constant has deviation 1.
        """
        pixels, levels = self.pixels, np.arange(256) / 255
        counts = np.zeros((pixels.shape[2], 256), dtype=np.int64)
        for row in self.splits["train"]:
            for channel, count in enumerate(counts):
                count += np.bincount(pixels[row, :, channel].ravel(), minlength=256)
        share = counts / counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        deviation = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
        return mean[:, None, None], np.where(deviation > 0, deviation, 1.0)[:, None, None]


class FewShot(Problem, ABC):
    """N-way K-shot classification of stored images by a network: all but the images.

    ``shape`` is that of one image. The fields are those of the problems; ``rotations`` and ``standardise``
    hold for problems without such a field.
    """

    shape: ClassVar[tuple[int, int, int]]
    ways: int
    shots: int
    queries: int
    network: Network
    input_scale: float
    rotations: bool = False
    standardise: bool = False

    def __post_init__(self) -> None:
        require(self.ways >= 2, "ways", self.ways, "2 or more")
        require(self.shots >= 1, "shots", self.shots, "1 or more")
        require(self.queries >= 1, "queries", self.queries, "1 or more")
        require(self.strength >= 0, "strength", self.strength, "0 or more")
        require(self.input_scale > 0, "input_scale", self.input_scale, "a positive number")

    @abstractmethod
    def images(self) -> ImageClasses:
        """The images and their split. Raises `Declined` where they are not on this machine."""

    @property
    def batching(self) -> Batching:
        return self.network.batching

    def init(self, generator: torch.Generator) -> Vector:
        return self.network.init(generator, self.shape, self.ways)

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        return sample(
            self.images(),
            generator,
            n_tasks,
            split,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            rotations=self.rotations,
            standardise=self.standardise,
            input_scale=self.input_scale,
        )

    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return self.output_loss(self.outputs(phi, x), y)

    def outputs(self, phi: Vector, x: Tensor) -> Float[Tensor, "n ways"]:
        return self.network.forward(phi, x, self.ways)

    def output_loss(self, z: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return cross_entropy(z, y)

    def query_accuracy(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        """Share of the query images whose largest output is at their label; of ``phi``'s type."""
        right = self.outputs(phi, x).argmax(dim=1) == y
        return right.to(phi.dtype).mean()

    def fingerprint(self) -> str | None:
        """SHA-256 of the images, the classes and the split: names the data in records. None without them."""
        try:
            return self.images().fingerprint
        except Declined:
            return None


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
    standardise: bool = False,
    input_scale: float = 1.0,
) -> Tasks:
    """Draw tasks. Inputs are [T, ways * (shots or queries), c, h, w] in [0, 1], float64; labels are int64.

    With ``standardise`` every channel has mean 0 and deviation 1 over the training classes. Then inputs are
    multiplied by ``input_scale``.

    With ``rotations`` every class counts four times, turned by 0, 90, 180 and 270 degrees. Task i is the same
    whatever ``n_tasks`` is: each has a generator of its own, seeded in turn from ``generator``.
    Raises `UsageError` where the split has too few classes or the classes have too few images, and `Declined`
    where there is no such split.
    """
    if split not in data.splits:
        raise Declined(f"{data.name} has no split '{split}'; it has: {', '.join(data.splits)}")
    turns = 4 if rotations else 1
    classes, pixels = data.splits[split], data.pixels
    n_classes, n_images = turns * len(classes), pixels.shape[1]
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
    mean, deviation = data.moments if standardise else (0.0, 1.0)
    drawn = np.empty((n_tasks, ways, shots + queries, *pixels.shape[2:]))
    for task in drawn:
        seed = int(torch.randint(2**62, (), generator=generator))
        own = torch.Generator().manual_seed(seed)
        for place, number in zip(task, torch.randperm(n_classes, generator=own)[:ways].tolist(), strict=True):
            rows = torch.randperm(n_images, generator=own)[: shots + queries].numpy()
            turned = np.rot90(pixels[classes[number // turns], rows], number % turns, axes=(2, 3))
            place[:] = (turned / 255 - mean) / deviation
    images = torch.from_numpy(drawn) if input_scale == 1 else input_scale * torch.from_numpy(drawn)
    labels = torch.arange(ways)
    return Tasks(
        images[:, :, :shots].flatten(1, 2),
        labels.repeat_interleave(shots).repeat(n_tasks, 1),
        images[:, :, shots:].flatten(1, 2),
        labels.repeat_interleave(queries).repeat(n_tasks, 1),
    )
