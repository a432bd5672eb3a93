"""Few-shot classification of small photographs: CIFAR-FS (Bertinetto et al. 2019), the classes of CIFAR-100.

Found in one of three forms: `<data>/cifar-100-python.tar.gz` as its authors publish it, read where it is;
the same unpacked, `<data>/cifar-100-python/{meta,train,test}`; or a folder of images per class, as CIFAR-FS
is handed on, `<data>/cifar100/data/<class>/*.png`. All 600 images of a class are one set, in order of their
file names, so that every form gives the same tasks.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from tqdm import tqdm

from bench import data
from bench.errors import UsageError
from bench.problems import few_shot, plain_pickle, stored_images
from bench.registry import register

PREPARATION = 1  # to be raised by every change of what is cached; part of the cache file's name
SIDE = 32
PARTS = ("meta", "train", "test")


@register("problem", "cifar_fs")
@dataclass(frozen=True)
class CifarFS(stored_images.Photographs):
    """N-way K-shot classification of the 100 classes of CIFAR-100, 600 colour images each, 32 x 32.

    Split of Bertinetto et al. 2019: 64 / 16 / 20 classes. The data hold one photograph as a girl (train) and
    as a baby (test), so that the splits share no class, but one image.

    Fields: see `Photographs`.
    """

    shape: ClassVar[tuple[int, int, int]] = (3, SIDE, SIDE)
    duplicates: ClassVar[float] = 0.01  # a class of training images among the others would be 1 in 20

    def images(self) -> few_shot.ImageClasses:
        return load()


def load() -> few_shot.ImageClasses:
    """The images and their split. Raises `Declined` if they are not here, `UsageError` if not whole."""
    (source,) = stored_images.found("cifar_fs", "CIFAR-100")
    return _load(source, data.cache_root())


@cache
def _load(source: Path, _cache_root: Path) -> few_shot.ImageClasses:
    what_to_do = data.what_to_do("cifar_fs")
    if source.is_file() or any((source / part).is_file() for part in PARTS):
        arrays = _of_pickles(source, what_to_do)
    else:
        files = ((path, path.relative_to(source).as_posix()) for path in source.glob("*/*.png"))
        name = stored_images.cache_name(
            "cifar_fs", PREPARATION, [stored_images.entry(*file) for file in files]
        )
        arrays = data.cached(name, lambda: _of_folders(source, what_to_do))
    splits = stored_images.declared_split("cifar_fs")
    return stored_images.of_split("CIFAR-100", arrays, splits, source, what_to_do)


def _of_folders(source: Path, what_to_do: str) -> data.Arrays:
    images: dict[str, list[np.ndarray]] = {}
    for path in tqdm(sorted(source.glob("*/*.png")), "reading cifar_fs", unit="image", disable=None):
        image = stored_images.decode(path.read_bytes(), str(path), "RGB", SIDE)
        images.setdefault(path.parent.name, []).append(image)
    return stored_images.stacked(images, source, what_to_do)


def _of_pickles(source: Path, what_to_do: str) -> data.Arrays:
    parts = dict(_unpickled(source, f"Remove it and {what_to_do}"))
    if set(parts) != set(PARTS):
        lacking = ", ".join(sorted(set(PARTS) - set(parts)))
        raise UsageError(f"{source} lacks {lacking}. Remove it and {what_to_do}")
    try:
        names = _strings(parts["meta"]["fine_label_names"])
        both = [_checked(parts[part], len(names)) for part in ("train", "test")]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{source} is no CIFAR-100: {error}. Remove it and {what_to_do}") from error
    images: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows = [row for part in both for row in zip(*part, strict=True)]
    for label, _, pixels in sorted(rows, key=lambda row: row[:2]):
        images[names[label]].append(pixels.reshape(3, SIDE, SIDE))
    return stored_images.stacked(images, source, what_to_do)


def _checked(part: Any, n_names: int) -> tuple[list[int], list[str], np.ndarray]:
    """Labels, file names and pixels [N, 3072] of a part; `TypeError` or `KeyError` says what is wrong."""
    labels, names, pixels = part["fine_labels"], _strings(part["filenames"]), part["data"]
    if not isinstance(labels, list) or not all(type(n) is int and 0 <= n < n_names for n in labels):
        raise TypeError(f"fine_labels are no numbers from 0 to {n_names - 1}")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise TypeError("data are no array of bytes")
    if pixels.shape != (len(labels), 3 * SIDE * SIDE) or len(names) != len(labels):
        raise TypeError(f"{len(labels)} labels, {len(names)} file names, data of shape {pixels.shape}")
    return labels, names, pixels


def _strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("names are no list of strings")
    return value


def _unpickled(source: Path, what_to_do: str) -> Iterator[tuple[str, Any]]:
    """The parts that there are, of a folder or of an archive, of which nothing is unpacked to the disk."""
    if source.is_dir():
        for part in PARTS:
            if (source / part).is_file():
                yield part, plain_pickle.read(source / part, what_to_do)
        return
    wanted = {f"cifar-100-python/{part}": part for part in PARTS}
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                part = wanted.get(member.name.removeprefix("./"))
                stream = archive.extractfile(member) if part and member.isreg() else None
                if part and stream:
                    name = f"{member.name} in {source}"
                    yield part, plain_pickle.read_stream(stream, name, what_to_do)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{source} is damaged ({type(error).__name__}: {error}). {what_to_do}") from error
