"""Few-shot classification of characters drawn from fonts: images without a download."""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench import data
from bench.api import Batching, Network, Problem, Split, Tasks, Vector
from bench.problems import few_shot, glyph_images
from bench.problems.networks import MLP
from bench.registry import register


@register("problem", "glyphs")
@dataclass(frozen=True)
class Glyphs(Problem):
    """N-way K-shot classification of characters in many scripts and font faces, 28 x 28, ink 1.

    Each image is a character in one of the faces that matplotlib ships, under a random affine map; 20 images
    a class, drawn once and cached. Train, val and test have different characters (about 64, 16 and 20 %).
    By the nearest neighbour in pixels it is as hard as Omniglot (5 ways, 1 shot: 48 % against 47 %).

    ways, shots, queries: classes per task, support and query images per class.
    network: the default is small, and smooth: on a ReLU network gradient descent keeps crossing kinks (its
    gradient stayed at a tenth of the first), so it never gets where the implicit gradient is defined.
    strength: lambda of the proximal term.
    input_scale: the ink, 1 unless told: what all pixels are multiplied by.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    network: Network = field(default_factory=lambda: MLP((32,), "tanh"))
    strength: float = 2.0
    input_scale: float = 1.0
    later: ClassVar[tuple[str, ...]] = ("input_scale",)

    def __post_init__(self) -> None:
        few_shot.require_few_shot(self.ways, self.shots, self.queries, self.strength, self.input_scale)

    @property
    def batching(self) -> Batching:
        return self.network.batching

    def init(self, generator: torch.Generator) -> Vector:
        return self.network.init(generator, (1, glyph_images.SIDE, glyph_images.SIDE), self.ways)

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        return few_shot.sample(
            load(),
            generator,
            n_tasks,
            split,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            input_scale=self.input_scale,
        )

    def support_loss(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return self.output_loss(self.outputs(phi, x), y)

    def outputs(self, phi: Vector, x: Tensor) -> Float[Tensor, "n ways"]:
        return self.network.forward(phi, x, self.ways)

    def output_loss(self, z: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return cross_entropy(z, y)

    def query_accuracy(self, phi: Vector, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
        return few_shot.accuracy(self.network, phi, x, y, self.ways)

    def fingerprint(self) -> str:
        """SHA-256 of the images, the classes and the split: names the data in records."""
        return load().fingerprint


def load() -> few_shot.ImageClasses:
    """The images and their split; drawn and cached by the first call on a machine."""
    return _load(data.cache_root())


@cache
def _load(_: Path) -> few_shot.ImageClasses:
    drawn_by = "-".join(f"{package}{version(package)}" for package in ("matplotlib", "pillow"))
    arrays = data.cached(f"glyphs-{glyph_images.DRAWING}-{drawn_by}", glyph_images.draw)
    names = tuple(f"U+{point:04X}" for point in arrays["code_points"])
    return few_shot.ImageClasses.of("glyphs", arrays["images"], names, [_split_of(name) for name in names])


def _split_of(name: str) -> Split:
    """By a hash of the character's name, so that a character never changes sides when others come or go."""
    number = int.from_bytes(hashlib.sha256(f"glyphs {name}".encode()).digest()[:8]) / 2**64
    return "train" if number < 0.64 else "val" if number < 0.8 else "test"
