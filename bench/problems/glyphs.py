"""Few-shot classification of characters drawn from fonts: images without a download."""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from bench import data
from bench.api import Network, Split
from bench.problems import few_shot, glyph_images
from bench.problems.networks import MLP
from bench.registry import register


@register("problem", "glyphs")
@dataclass(frozen=True)
class Glyphs(few_shot.FewShot):
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
    shape: ClassVar[tuple[int, int, int]] = (1, glyph_images.SIDE, glyph_images.SIDE)

    def images(self) -> few_shot.ImageClasses:
        return load()


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
