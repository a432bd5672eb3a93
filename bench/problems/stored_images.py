"""What the problems of stored images share: fields, names of caches, decoding, stacking by class, splits."""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from bench import data
from bench.api import Declined, Network, Split
from bench.errors import UsageError
from bench.problems.few_shot import FewShot, ImageClasses
from bench.problems.networks import Conv4

Entry = tuple[str, int, int]  # name, size, and a checksum or a time of change


@dataclass(frozen=True)
class Photographs(FewShot):
    """N-way K-shot classification of small colour photographs: the fields, with their usual values.

    ways, shots, queries: classes per task, support and query images per class.
    network: the default is the one of MAML and iMAML for mini-ImageNet.
    strength: lambda of the proximal term; 0.5 in iMAML for mini-ImageNet.
    standardise: every channel has mean 0 and deviation 1 over the training classes; else all are in [0, 1].
    input_scale: what all pixels are then multiplied by, 1 unless told.
    """

    ways: int = 5
    shots: int = 1
    queries: int = 15
    network: Network = field(default_factory=lambda: Conv4(32, pooling="max"))
    strength: float = 0.5
    standardise: bool = True
    input_scale: float = 1.0
    later: ClassVar[tuple[str, ...]] = ("standardise", "input_scale")


def found(data_set: str, title: str) -> tuple[Path, ...]:
    """What there is of a data set. Raises `Declined` where that is not all."""
    sources = data.sources(data_set)
    if not sources:
        raise Declined(f"{title} is not on this machine: {data.what_to_do(data_set)}")
    return tuple(sources)


def cache_name(name: str, preparation: int, listing: Iterable[Entry]) -> str:
    """The cache file of arrays made from these files; ``preparation`` is raised when their making changes."""
    return f"{name}-{preparation}-{hashlib.sha256(repr(sorted(listing)).encode()).hexdigest()[:16]}"


def entry(path: Path, name: str) -> Entry:
    """A file in a listing."""
    state = path.stat()
    return name, state.st_size, state.st_mtime_ns


def decode(content: bytes, name: str, mode: Literal["L", "RGB"], side: int) -> np.ndarray:
    """An image file as uint8 [side, side] or, in colour, [3, side, side]; another size is changed by Lanczos.

    Raises `UsageError` with ``name`` if it is no image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            # The mode first: Pillow resizes one-bit images without smoothing.
            small = image.convert(mode).resize((side, side), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{name} is no image ({error}). Replace the file") from error
    pixels = np.asarray(small)
    return pixels if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def stacked(
    images: Mapping[str, Sequence[np.ndarray] | np.ndarray], place: Path, what_to_do: str
) -> data.Arrays:
    """`classes` [C] in order of name and `images` [C, I, ...], of every class's images.

    Raises `UsageError` where there are no images, or classes have unequal numbers of them.
    """
    counts = {len(of_class) for of_class in images.values()}
    if len(counts) != 1 or 0 in counts:
        raise UsageError(
            f"the classes in {place} must have equally many images, they have "
            f"{', '.join(map(str, sorted(counts))) or 'none'}. Remove the copy and {what_to_do}"
        )
    classes = sorted(images)
    return {"classes": np.array(classes), "images": np.stack([np.asarray(images[name]) for name in classes])}


def of_split(
    name: str, arrays: data.Arrays, splits: Mapping[str, Split], place: Path, what_to_do: str
) -> ImageClasses:
    """What `stacked` returns, with its split. Raises `UsageError` unless both have the same classes."""
    classes = arrays["classes"].tolist()
    missing, strange = set(splits) - set(classes), set(classes) - set(splits)
    if missing or strange:
        raise UsageError(
            f"the copy of {name} in {place} has {len(classes)} classes: {len(missing)} are missing, "
            f"{len(strange)} are unknown (such as {min(missing or strange)}). Remove it and {what_to_do}"
        )
    return ImageClasses.of(name, arrays["images"], classes, [splits[c] for c in classes])


def declared(name: str) -> dict[str, Any]:
    """The table of a file in ``splits``."""
    return json.loads(files("bench.problems").joinpath("splits", f"{name}.json").read_text("utf-8"))


def declared_split(name: str) -> dict[str, Split]:
    """Class -> split, of a file in ``splits`` that lists the classes of every split."""
    table = declared(name)
    return {member: side for side in get_args(Split) for member in table[side]}
