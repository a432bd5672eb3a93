"""Few-shot classification of handwritten characters: Omniglot (Lake, Salakhutdinov and Tenenbaum 2015).

Files lie as torchvision puts them: `<data>/omniglot-py/images_background` and `images_evaluation`, each a zip
or a folder of `<alphabet>/characterNN/CCCC_DD.png`, 105 x 105, ink 0. They are made 28 x 28 once and cached.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from bench import data
from bench.api import Batching, Declined, Network, Problem, Split, Tasks, Vector, require
from bench.errors import UsageError
from bench.problems import few_shot
from bench.problems.networks import Conv4
from bench.registry import register

PREPARATION = 1  # to be raised by every change of what is cached; part of the cache file's name
SIDE = 28
N_AUTHORS_TRAIN = 1200
DRAWING = re.compile(r"(images_(?:background|evaluation)/[^/]+/character\d+)/[^/]+\.png")


@register("problem", "omniglot")
@dataclass(frozen=True)
class Omniglot(Problem):
    """N-way K-shot classification of the 1,623 characters of Omniglot, 20 drawings each, 28 x 28, ink 1.

    ways, shots, queries: classes per task, support and query images per class.
    network: the default is the one of MAML and iMAML.
    strength: lambda of the proximal term; 2 in iMAML.
    rotations: every character turned by 0, 90, 180 and 270 degrees makes four classes of the same split.
    split_by: "vinyals", the 1,028 / 172 / 423 characters of Vinyals et al. 2016; or "authors", 1,200 / 0 /
    423 characters at random as in the code of iMAML, but drawn once for all (there, the test script draws
    anew, so that most of its characters were trained on).
    input_scale: the ink, 1 unless told: what all pixels are multiplied by.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    network: Network = field(default_factory=Conv4)
    strength: float = 2.0
    rotations: bool = True
    split_by: Literal["vinyals", "authors"] = "vinyals"
    input_scale: float = 1.0
    later: ClassVar[tuple[str, ...]] = ("input_scale",)

    def __post_init__(self) -> None:
        few_shot.require_few_shot(self.ways, self.shots, self.queries, self.strength, self.input_scale)
        require(self.split_by in ("vinyals", "authors"), "split_by", self.split_by, "vinyals, authors")

    @property
    def batching(self) -> Batching:
        return self.network.batching

    def init(self, generator: torch.Generator) -> Vector:
        return self.network.init(generator, (1, SIDE, SIDE), self.ways)

    def sample(self, generator: torch.Generator, n_tasks: int, split: Split = "train") -> Tasks:
        return few_shot.sample(
            load(self.split_by),
            generator,
            n_tasks,
            split,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            rotations=self.rotations,
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

    def fingerprint(self) -> str | None:
        """SHA-256 of the images and the split: names the data in records. None where they are missing."""
        return load(self.split_by).fingerprint if data.sources("omniglot") else None


def load(split_by: str) -> few_shot.ImageClasses:
    """The images and a split. Raises `Declined` if they are not here, `UsageError` if they are not whole."""
    sources = data.sources("omniglot")
    if not sources:
        raise Declined(f"Omniglot is not on this machine: {data.what_to_do('omniglot')}")
    return _split(tuple(sources), data.cache_root(), split_by)


@cache
def _split(sources: tuple[Path, ...], cache_root: Path, split_by: str) -> few_shot.ImageClasses:
    arrays = _arrays(sources, cache_root)
    characters = arrays["characters"].tolist()
    declared = vinyals_split()
    missing, strange = set(declared) - set(characters), set(characters) - set(declared)
    if missing or strange:
        raise UsageError(
            f"the copy of Omniglot in {sources[0].parent} has {len(characters)} characters: {len(missing)} "
            f"are missing, {len(strange)} are unknown (such as {min(missing or strange)}). Remove it and "
            f"{data.what_to_do('omniglot')}"
        )
    splits = declared if split_by == "vinyals" else authors_split(characters)
    return few_shot.ImageClasses.of("omniglot", arrays["images"], characters, [splits[c] for c in characters])


def vinyals_split() -> dict[str, Split]:
    """Character -> split, after Vinyals et al. 2016."""
    declared = json.loads(
        files("bench.problems").joinpath("splits", "omniglot_vinyals.json").read_text("utf-8")
    )
    sides: tuple[Split, ...] = ("train", "val", "test")
    return {
        f"{part}/{alphabet}/character{number:02d}": side
        for side in sides
        for part, alphabets in declared[side].items()
        for alphabet, (first, last) in alphabets.items()
        for number in range(first, last + 1)
    }


def authors_split(characters: list[str]) -> dict[str, Split]:
    """Character -> split: the order is that of a hash, so it is the same everywhere and for ever."""
    order = sorted(characters, key=lambda c: hashlib.sha256(c.encode()).digest())
    return {c: "train" if rank < N_AUTHORS_TRAIN else "test" for rank, c in enumerate(order)}


@cache
def _arrays(sources: tuple[Path, ...], _cache_root: Path) -> data.Arrays:
    listing = hashlib.sha256(repr([sorted(_listing(source)) for source in sources]).encode())
    return data.cached(f"omniglot-{PREPARATION}-{listing.hexdigest()[:16]}", lambda: _prepare(sources))


def _listing(source: Path) -> Iterator[tuple[str, int, int]]:
    """(name below the data set's folder, size, checksum or 0) of every drawing, in no order."""
    if source.is_dir():
        for path in source.rglob("*.png"):
            name = path.relative_to(source.parent).as_posix()
            if DRAWING.fullmatch(name):
                yield name, path.stat().st_size, 0
    else:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if DRAWING.fullmatch(info.filename):
                    yield info.filename, info.file_size, info.CRC


def _prepare(sources: tuple[Path, ...]) -> data.Arrays:
    """`characters` [C] in order of name, and `images` uint8 [C, I, SIDE, SIDE], 255 is ink."""
    drawings: dict[str, list[np.ndarray]] = {}
    for source in sources:
        names = sorted(name for name, *_ in _listing(source))
        for name, content in zip(names, _read(source, names), strict=True):
            match = DRAWING.fullmatch(name)
            assert match is not None
            drawings.setdefault(match[1], []).append(_decode(content, f"{name} in {source}"))
    counts = {len(images) for images in drawings.values()}
    if len(counts) != 1:
        raise UsageError(
            f"the characters in {sources[0].parent} must have equally many drawings, they have "
            f"{sorted(counts)}. Remove the copy and {data.what_to_do('omniglot')}"
        )
    return {
        "characters": np.array(list(drawings)),
        "images": np.stack([np.stack(images) for images in drawings.values()]),
    }


def _read(source: Path, names: list[str]) -> Iterator[bytes]:
    progress = tqdm(names, f"reading {source.stem}", unit="image", disable=None)
    if source.is_dir():
        yield from (source.parent.joinpath(name).read_bytes() for name in progress)
    else:
        with zipfile.ZipFile(source) as archive:
            yield from (archive.read(name) for name in progress)


def _decode(content: bytes, name: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            # Grey first: Pillow resizes one-bit images without smoothing.
            small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    except OSError as error:
        raise UsageError(f"{name} is no image ({error}). Replace the file") from error
    return 255 - np.asarray(small)
