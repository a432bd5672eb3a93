"""Few-shot classification of photographs: mini-ImageNet (Vinyals et al. 2016).

Found in one of two forms in `<data>/mini-imagenet`: a folder `images` with `train.csv`, `val.csv` and
`test.csv` (header `filename,label`), made 84 x 84 once and cached; or the pickles
`mini-imagenet-cache-{train,val,test}.pkl`, each a dict of `image_data`, uint8 [N, 84, 84, 3], and
`class_dict`, class -> rows. The images are 1.3 GB in memory, and two or three times that while they are read.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from tqdm import tqdm

from bench import data
from bench.api import Split
from bench.errors import UsageError
from bench.problems import few_shot, plain_pickle, stored_images
from bench.registry import register

PREPARATION = 1  # to be raised by every change of what is cached; part of the cache file's name
SIDE = 84
SIDES: tuple[Split, ...] = get_args(Split)


@register("problem", "mini_imagenet")
@dataclass(frozen=True)
class MiniImageNet(stored_images.Photographs):
    """N-way K-shot classification of 100 classes of ImageNet, 600 colour images each, 84 x 84.

    Split of Ravi and Larochelle 2017: 64 / 16 / 20 classes.

    Fields: see `Photographs`.
    """

    shape: ClassVar[tuple[int, int, int]] = (3, SIDE, SIDE)

    def images(self) -> few_shot.ImageClasses:
        return load()


def load() -> few_shot.ImageClasses:
    """The images and their split. Raises `Declined` if they are not here, `UsageError` if not whole."""
    return _load(stored_images.found("mini_imagenet", "mini-ImageNet"), data.cache_root())


@cache
def _load(sources: tuple[Path, ...], _cache_root: Path) -> few_shot.ImageClasses:
    place, what_to_do = sources[0].parent, data.what_to_do("mini_imagenet")
    if sources[0].is_dir():
        folder, *lists = sources
        rows = [row for side, path in zip(SIDES, lists, strict=True) for row in _rows(path, side, folder)]
        listing = [stored_images.entry(path, f"{label}/{path.name}") for path, label in rows]
        name = stored_images.cache_name("mini_imagenet", PREPARATION, listing)
        arrays = data.cached(name, lambda: _of_images(rows, place, what_to_do))
    else:
        images: dict[str, np.ndarray] = {}
        for side, path in zip(SIDES, sources, strict=True):
            images |= _of_pickle(path, side, f"Remove it and get another: {what_to_do}")
        arrays = stored_images.stacked(images, place, what_to_do)
    return stored_images.of_split("mini-ImageNet", arrays, ravi_split(), place, what_to_do)


def _of_images(rows: list[tuple[Path, str]], place: Path, what_to_do: str) -> data.Arrays:
    images: dict[str, list[np.ndarray]] = {}
    for path, name in tqdm(rows, "reading mini_imagenet", unit="image", disable=None):
        image = stored_images.decode(path.read_bytes(), str(path), "RGB", SIDE)
        images.setdefault(name, []).append(image)
    return stored_images.stacked(images, place, what_to_do)


def _rows(path: Path, side: Split, folder: Path) -> Iterator[tuple[Path, str]]:
    """(image file, class) of every line of a list: of classes of its split, and of files that are there."""
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if table.fieldnames != ["filename", "label"]:
            raise UsageError(f"{path} must begin with the line filename,label. Replace the file")
        for row in table:
            name, label = row["filename"], row["label"]
            if not name or not label or Path(name).name != name or not (folder / name).is_file():
                raise UsageError(
                    f"line {table.line_num} of {path} names no image in {folder}: {name}. "
                    "Put it there, or replace the list"
                )
            _require_side(path, side, label)
            yield folder / name, label


def _require_side(path: Path, side: Split, label: str) -> None:
    belongs = ravi_split().get(label)
    if belongs not in (None, side):  # an unknown class is told with all others later
        raise UsageError(f"{path} has the class {label}, which belongs to {belongs}. Replace the file")


@cache
def ravi_split() -> dict[str, Split]:
    """Class -> split, after Ravi and Larochelle 2017."""
    return stored_images.declared_split("mini_imagenet")


def _of_pickle(path: Path, side: Split, what_to_do: str) -> dict[str, np.ndarray]:
    """Class -> uint8 [I, 3, SIDE, SIDE] of one cache pickle."""
    content = plain_pickle.read(path, what_to_do)
    try:
        pixels, of_class = content["image_data"], content["class_dict"]
        images = {str(name): _chosen(pixels, rows) for name, rows in of_class.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no cache of mini-ImageNet: {error}. {what_to_do}") from error
    for name in images:
        _require_side(path, side, name)
    return images


def _chosen(pixels: Any, rows: Any) -> np.ndarray:
    """The images of one class; `TypeError` says what is wrong."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE, SIDE, 3):
        raise TypeError(f"image_data are no bytes [N, {SIDE}, {SIDE}, 3]")
    places, n = np.array(rows), len(pixels)
    if places.ndim != 1 or places.dtype.kind not in "iu" or not ((places >= 0) & (places < n)).all():
        raise TypeError(f"a class has rows that are no numbers from 0 to {n - 1}")
    return pixels[places].transpose(0, 3, 1, 2)
