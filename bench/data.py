"""Data on this machine: where sets lie, how to get them, and the cache of prepared arrays.

Places, each overridable by an environment variable:

    METABENCH_DATA    folder of data sets (default: the user's data folder); `<data>/omniglot-py/...`
    METABENCH_CACHE   folder of prepared arrays and compiled C++ (default: the user's cache); safe to delete
    METABENCH_MIRROR  base URL of a copy of the data folder, used instead of the official addresses
"""

import hashlib
import logging
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict
from uuid import uuid4

import numpy as np
import platformdirs
import pooch

from bench.errors import UsageError, unknown

Arrays = dict[str, np.ndarray]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """One data set.

    folder: its place below the data folder; "" is that folder itself. url: official address of the archives,
    ending in "/". archives: file name -> checksum as pooch writes it ("md5:..."); none where there is nothing
    to download. An archive may also lie unpacked, as a folder of its name without the ending.
    layouts: other forms of the set, each as the names in ``folder`` that it is made of.
    by_hand: where to get it, for a set without archives.
    """

    folder: str
    url: str = ""
    archives: Mapping[str, str] = field(default_factory=dict)
    layouts: tuple[tuple[str, ...], ...] = ()
    by_hand: str = ""

    def where(self) -> Path:
        """The folder where it lies or must lie."""
        return data_root() / self.folder

    def unpacked_or_packed(self) -> list[Path | None]:
        """Per archive what is on this machine: the unpacked folder, else the archive, else None."""
        found: list[Path | None] = []
        for archive in self.archives:
            packed = self.where() / archive
            unpacked = self.where() / archive.removesuffix(".zip").removesuffix(".tar.gz")
            if unpacked.is_dir():
                found.append(unpacked)
            else:
                found.append(packed if _is_archive(packed) else None)
        return found

    def sources(self) -> list[Path]:
        """What is on this machine of the first form that is complete; empty if none is."""
        parts = [part for part in self.unpacked_or_packed() if part is not None]
        if parts and len(parts) == len(self.archives):
            return parts
        forms = ([self.where() / name for name in layout] for layout in self.layouts)
        return next((form for form in forms if all(path.exists() for path in form)), [])


DATA_SETS: Mapping[str, DataSet] = {
    "omniglot": DataSet(
        "omniglot-py",
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
        {
            "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
            "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
        },
    ),
    "cifar_fs": DataSet(
        "",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"},
        layouts=(("cifar100/data",),),
    ),
    "mini_imagenet": DataSet(
        "mini-imagenet",
        layouts=(
            ("images", "train.csv", "val.csv", "test.csv"),
            tuple(f"mini-imagenet-cache-{side}.pkl" for side in ("train", "val", "test")),
        ),
        by_hand="its images are ImageNet's, whose terms allow no download from here. Get them from "
        "https://image-net.org and the lists of files from https://github.com/twitter-research/"
        "meta-learning-lstm (data/miniImagenet), or take the pickles of another project of yours",
    ),
}


class Status(TypedDict):
    """Whether a data set is on this machine, where it lies or must lie, and what to do if it is missing."""

    found: bool
    where: str
    what_to_do: str | None


def data_root() -> Path:
    """The folder of data sets."""
    return Path(os.environ.get("METABENCH_DATA") or platformdirs.user_data_path("metabench"))


def cache_root() -> Path:
    """The folder of prepared arrays."""
    return Path(os.environ.get("METABENCH_CACHE") or platformdirs.user_cache_path("metabench"))


def where(name: str) -> Path:
    """The folder where a data set lies or must lie. Raises `UsageError` for an unknown name."""
    return _data_set(name).where()


def sources(name: str) -> list[Path]:
    """A data set's parts on this machine, each a file, a folder or an archive; empty if a part is missing."""
    return _data_set(name).sources()


def status() -> dict[str, Status]:
    """Every data set: found where, or missing and what to do."""
    return {
        name: Status(found=found, where=str(where(name)), what_to_do=None if found else what_to_do(name))
        for name in DATA_SETS
        for found in [bool(sources(name))]
    }


def what_to_do(name: str) -> str:
    """How to bring a missing data set onto this machine."""
    data_set = _data_set(name)
    how = f"run `metabench data get {name}`, or " if data_set.archives else f"{data_set.by_hand}. Then "
    return how + _own_copy(data_set)


def get(name: str, registry: Mapping[str, DataSet] = DATA_SETS, retries: int = 2) -> Path:
    """Download what is missing of a data set, verify it, and return its folder.

    Progress goes to stderr if that is a terminal. ``registry`` replaces the known data sets (and with them
    addresses and checksums), ``retries`` is how often a failed download is tried again.
    Raises `UsageError` for an unknown name, no network, a wrong checksum, a folder that cannot be written, or
    a data set that has no address.
    """
    data_set = _data_set(name, registry)
    folder = data_set.where()
    if data_set.sources():
        return folder
    if not data_set.archives:
        raise UsageError(f"{name} cannot be downloaded: {what_to_do(name)}")
    mirror = os.environ.get("METABENCH_MIRROR")
    base = f"{mirror.rstrip('/')}/{_below(data_set)}" if mirror else data_set.url
    store = pooch.create(folder, base, registry=dict(data_set.archives), retry_if_failed=retries)
    for archive, source in zip(data_set.archives, data_set.unpacked_or_packed(), strict=True):
        if source is not None:
            continue  # a copy of the user's own may be packed differently, so its checksum says nothing
        try:
            # Pooch verifies a temporary file and then renames it: a failure leaves nothing behind.
            store.fetch(archive, progressbar=sys.stderr.isatty())
        except ValueError as error:
            raise UsageError(
                f"{base}{archive} is not the file that was expected ({error}). Nothing was kept. "
                f"If the address serves something else, {_own_copy(data_set)}"
            ) from error
        except OSError as error:  # what requests raises for the network is one too
            raise UsageError(
                f"could not get {base}{archive} into {folder}: {type(error).__name__}: {error}. "
                f"Without a network {_own_copy(data_set)}, or set METABENCH_MIRROR to a base address "
                f"that serves {_below(data_set)}{archive}"
            ) from error
    return folder


def cached(name: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``make`` makes, from the cache file ``name``.npz if that is there and whole.

    ``name`` must tell apart whatever ``make`` may depend on. A cache that cannot be written costs the time
    of making the arrays again, so it is a logged warning and no error.
    """
    path = cache_root() / f"{name}.npz"
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        pass
    except Exception as error:  # noqa: BLE001  a damaged file may raise anything; it is made again
        log.warning("%s is damaged (%s); it is made again", path, error)
    arrays = make()
    try:
        _write(path, arrays)
    except OSError as error:
        log.warning("%s cannot be written (%s); it will be made again next time", path, error)
    return arrays


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 of the arrays' names, types, shapes and bytes: names the data in records."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _data_set(name: str, registry: Mapping[str, DataSet] = DATA_SETS) -> DataSet:
    if name not in registry:
        raise unknown("data set", name, registry)
    return registry[name]


def _own_copy(data_set: DataSet) -> str:
    archives = f"{_listed(data_set.archives)} (packed or unpacked)" if data_set.archives else ""
    forms = " or ".join([*[archives] * bool(archives), *map(_listed, data_set.layouts)])
    place = f" in {_below(data_set)}" if data_set.folder else ""
    here = f"put a copy of {forms} into {data_set.where()}"
    return f"{here}, or set METABENCH_DATA to a folder that has them{place}"


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _below(data_set: DataSet) -> str:
    """The set's folder in an address below the data folder's."""
    return f"{data_set.folder}/" if data_set.folder else ""


def _is_archive(path: Path) -> bool:
    """Whether it is a file that can be opened as what its name says; a tar is looked into no further."""
    if path.suffix == ".zip":
        return zipfile.is_zipfile(path)
    return path.is_file() and tarfile.is_tarfile(path)


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may make the same file at once: each writes its own, the last rename wins.
    temporary = path.with_name(f"{path.stem}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
