"""Generated copies of CIFAR-100 and of mini-ImageNet in every form in which they are handed on.

Image `i` of class number `c` is noise but for its first pixel, whose red is `c` and whose green is `i`.
"""

import csv
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.problems import stored_images

PER_CLASS = 3
CIFAR = sorted(stored_images.declared_split("cifar_fs"))
MINI = sorted(stored_images.declared_split("mini_imagenet"))


def image(number: int, i: int, side: int) -> np.ndarray:
    """uint8 [side, side, 3]."""
    pixels = np.random.default_rng([number, i]).integers(0, 256, (side, side, 3), np.uint8)
    pixels[0, 0, :2] = number, i
    return pixels


def marks(images: np.ndarray) -> np.ndarray:
    """[C, I, 2] of class number and image number, of images [C, I, 3, h, w]."""
    return images[:, :, :2, 0, 0]


def _cifar() -> Iterator[tuple[int, int, str]]:
    """(class, image, file name) in an order that is neither that of classes nor that of names."""
    for i in reversed(range(PER_CLASS)):
        for number in range(len(CIFAR)):
            yield number, i, f"{'abc'[i]}_{CIFAR[number][::-1]}_s_{i:06d}.png"


def cifar_parts() -> dict[str, dict[str, Any]]:
    """Contents of the three official files; the last image of every class is in ``test``."""
    parts: dict[str, dict[str, Any]] = {"meta": {"fine_label_names": CIFAR, "coarse_label_names": ["all"]}}
    for part in ("train", "test"):
        rows = [row for row in _cifar() if (row[1] == PER_CLASS - 1) == (part == "test")]
        parts[part] = {
            "filenames": [name for _, _, name in rows],
            "batch_label": f"{part}ing batch 1 of 1",
            "fine_labels": [number for number, _, _ in rows],
            "coarse_labels": [0 for _ in rows],
            "data": np.stack(
                [image(number, i, 32).transpose(2, 0, 1).reshape(3072) for number, i, _ in rows]
            ),
        }
    return parts


def cifar_pickles(root: Path, parts: dict[str, Any] | None = None, protocol: int = 4) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, content in (parts or cifar_parts()).items():
        folder.joinpath(name).write_bytes(pickle.dumps(content, protocol))
    return folder


def cifar_archive(path: Path, extra: tuple[tarfile.TarInfo, ...] = ()) -> None:
    """As it is published; ``extra`` members have no content."""
    with tarfile.open(path, "w:gz") as archive:
        for member in extra:
            archive.addfile(member)
        for name, content in cifar_parts().items():
            dumped = pickle.dumps(content, 2)
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(dumped)
            archive.addfile(info, io.BytesIO(dumped))


def cifar_folders(root: Path) -> Path:
    folder = root / "cifar100" / "data"
    for number, i, name in _cifar():
        path = folder / CIFAR[number] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(number, i, 32)).save(path)
    return folder


def mini_parts(side: str) -> dict[str, Any]:
    """Content of one cache pickle; rows of a class lie apart."""
    splits = stored_images.declared_split("mini_imagenet")
    numbers = [n for n, name in enumerate(MINI) if splits[name] == side]
    rows = [(number, i) for i in range(PER_CLASS) for number in numbers]
    return {
        "image_data": np.stack([image(number, i, 84) for number, i in rows]),
        "class_dict": {
            MINI[n]: [row for row, (number, _) in enumerate(rows) if number == n] for n in numbers
        },
    }


def mini_pickles(root: Path) -> Path:
    folder = root / "mini-imagenet"
    folder.mkdir(parents=True)
    for side in ("train", "val", "test"):
        folder.joinpath(f"mini-imagenet-cache-{side}.pkl").write_bytes(pickle.dumps(mini_parts(side), 2))
    return folder


def mini_images(root: Path, side: int = 84) -> Path:
    """Lists and a folder of files of that many pixels, lossless but for their name's ending."""
    folder = root / "mini-imagenet"
    (folder / "images").mkdir(parents=True)
    splits = stored_images.declared_split("mini_imagenet")
    for part in ("train", "val", "test"):
        with open(folder / f"{part}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["filename", "label"])
            for number, name in enumerate(MINI):
                for i in range(PER_CLASS) if splits[name] == part else ():
                    table.writerow([f"{name}{i:08d}.jpg", name])
                    path = folder / "images" / f"{name}{i:08d}.jpg"
                    Image.fromarray(image(number, i, side)).save(path, "png")
    return folder
