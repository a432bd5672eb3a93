"""Few-shot classification of handwritten characters: Omniglot (Lake, Salakhutdinov and Tenenbaum 2015).

Files lie as torchvision puts them: `<data>/omniglot-py/images_background` and `images_evaluation`, each a zip
or a folder of `<alphabet>/characterNN/CCCC_DD.png`, 105 x 105, ink 0. They are made 28 x 28 once and cached.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from tqdm import tqdm

from bench import data
from bench.api import Network, Split, require
from bench.problems import few_shot, stored_images
from bench.problems.networks import Conv4
from bench.registry import register

PREPARATION = 2  # to be raised by every change of what is cached; part of the cache file's name
SIDE = 28
N_AUTHORS_TRAIN = 1200
DRAWING = re.compile(r"(images_(?:background|evaluation)/[^/]+/character\d+)/[^/]+\.png")


@register("problem", "omniglot")
@dataclass(frozen=True)
class Omniglot(few_shot.FewShot):
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
    shape: ClassVar[tuple[int, int, int]] = (1, SIDE, SIDE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.split_by in ("vinyals", "authors"), "split_by", self.split_by, "vinyals, authors")

    def images(self) -> few_shot.ImageClasses:
        return load(self.split_by)


def load(split_by: str) -> few_shot.ImageClasses:
    """The images and a split. Raises `Declined` if they are not here, `UsageError` if they are not whole."""
    return _split(stored_images.found("omniglot", "Omniglot"), data.cache_root(), split_by)


@cache
def _split(sources: tuple[Path, ...], cache_root: Path, split_by: str) -> few_shot.ImageClasses:
    arrays = _arrays(sources, cache_root)
    splits = vinyals_split() if split_by == "vinyals" else authors_split(list(vinyals_split()))
    return stored_images.of_split("omniglot", arrays, splits, sources[0].parent, data.what_to_do("omniglot"))


def vinyals_split() -> dict[str, Split]:
    """Character -> split, after Vinyals et al. 2016."""
    declared = stored_images.declared("omniglot_vinyals")
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
    listing = (entry for source in sources for entry in _listing(source))
    name = stored_images.cache_name("omniglot", PREPARATION, listing)
    return data.cached(name, lambda: _prepare(sources))


def _listing(source: Path) -> Iterator[stored_images.Entry]:
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
    """What `stored_images.stacked` returns, images SIDE x SIDE, 255 is ink."""
    drawings: dict[str, list[np.ndarray]] = {}
    for source in sources:
        names = sorted(name for name, *_ in _listing(source))
        for name, content in zip(names, _read(source, names), strict=True):
            match = DRAWING.fullmatch(name)
            assert match is not None
            image = stored_images.decode(content, f"{name} in {source}", "L", SIDE)
            drawings.setdefault(match[1], []).append(255 - image)
    return stored_images.stacked(drawings, sources[0].parent, data.what_to_do("omniglot"))


def _read(source: Path, names: list[str]) -> Iterator[bytes]:
    progress = tqdm(names, f"reading {source.stem}", unit="image", disable=None)
    if source.is_dir():
        yield from (source.parent.joinpath(name).read_bytes() for name in progress)
    else:
        with zipfile.ZipFile(source) as archive:
            yield from (archive.read(name) for name in progress)
