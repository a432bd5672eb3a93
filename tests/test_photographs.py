"""CIFAR-FS and mini-ImageNet: every form of the data gives the same images, and no damaged copy is taken."""

import csv
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import data
from bench.api import Declined
from bench.errors import UsageError
from bench.problems import CifarFS, MiniImageNet, cifar_fs, mini_imagenet, stored_images
from bench.problems.few_shot import ImageClasses
from tests import fake_photographs as fake

EXPECTED = np.stack(np.meshgrid(range(100), range(fake.PER_CLASS), indexing="ij"), axis=-1)  # class, image


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data folder, with a cache of its own beside it."""
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def _archive(root: Path) -> None:
    fake.cifar_archive(root / "cifar-100-python.tar.gz")


def _assert_as_made(loaded: ImageClasses, names: list[str], side: int) -> None:
    assert loaded.images.shape == (100, fake.PER_CLASS, 3, side, side)
    assert list(loaded.classes) == names
    assert np.array_equal(fake.marks(loaded.images), EXPECTED)
    assert np.array_equal(loaded.images[7, 1], fake.image(7, 1, side).transpose(2, 0, 1))
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 64, "val": 16, "test": 20}


@pytest.mark.parametrize("lay", [fake.cifar_pickles, fake.cifar_folders, _archive])
def test_every_form_of_cifar_is_the_same(root, lay: Callable):
    lay(root)
    before = sorted(root.rglob("*"))
    loaded = cifar_fs.load()
    _assert_as_made(loaded, fake.CIFAR, 32)
    assert loaded.fingerprint.startswith("a152c9bf9c015fbb")
    assert CifarFS().fingerprint() == loaded.fingerprint
    assert cifar_fs.load() is loaded
    assert sorted(root.rglob("*")) == before  # nothing is unpacked


@pytest.mark.parametrize("lay", [fake.mini_pickles, fake.mini_images])
def test_every_form_of_mini_imagenet_is_the_same(root, lay: Callable):
    lay(root)
    loaded = mini_imagenet.load()
    _assert_as_made(loaded, fake.MINI, 84)
    assert loaded.fingerprint.startswith("c825ed73832fdeb7")
    assert MiniImageNet().fingerprint() == loaded.fingerprint


def test_larger_images_and_jpegs_are_made_84_x_84(root):
    folder = fake.mini_images(root, side=100)
    path = folder / "images" / f"{fake.MINI[3]}{0:08d}.jpg"
    half = np.zeros((200, 300, 3), np.uint8)
    half[:, 150:] = (250, 120, 10)
    Image.fromarray(half).save(path, "jpeg", quality=95)
    image = mini_imagenet.load().images[3, 0].astype(int)
    assert image.shape == (3, 84, 84)
    assert abs(image[:, :, :35]).max() <= 3
    assert abs(image[:, :, 50:] - np.array([250, 120, 10])[:, None, None]).max() <= 3


@pytest.mark.parametrize(
    ("lay", "module"), [(fake.cifar_folders, cifar_fs), (fake.mini_images, mini_imagenet)]
)
def test_decoded_images_are_cached_until_a_file_changes(root, lay: Callable, module, monkeypatch):
    folder = lay(root)
    first = module.load()
    module._load.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(stored_images, "decode", None)  # fails if it is called
        assert module.load().fingerprint == first.fingerprint
    path = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".png", ".jpg"))
    state = path.stat()
    path.write_bytes(bytes(state.st_size))  # as long as before
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    module._load.cache_clear()
    with pytest.raises(UsageError, match=f"{path.name} is no image"):
        module.load()


@pytest.mark.parametrize(
    ("problem", "title", "how"),
    [
        (
            CifarFS(),
            "CIFAR-100",
            r"run `metabench data get cifar_fs`, or put a copy of cifar-100-python\.tar\.gz",
        ),
        (
            MiniImageNet(),
            "mini-ImageNet",
            r"ImageNet's, whose terms .* Then put a copy of images, train\.csv, val",
        ),
    ],
    ids=["cifar_fs", "mini_imagenet"],
)
def test_missing_data_are_declined_with_what_to_do(root, problem, title, how):
    with pytest.raises(Declined, match=f"{title} is not on this machine: .*{how}") as caught:
        problem.sample(_generator(), 1)
    assert str(root) in str(caught.value)
    assert problem.fingerprint() is None
    problem.init(_generator())  # needs no data


def test_networks_are_those_of_maml():
    # 4 x (3 x 3, 32 filters, bias, scale, shift), then from 32 x 5 x 5 (84 halved four times) or 32 x 2 x 2
    blocks = (3 * 9 + 3) * 32 + 3 * (32 * 9 + 3) * 32
    assert MiniImageNet().init(_generator()).shape == (blocks + 800 * 5 + 5,) == (32_901,)
    assert CifarFS().init(_generator()).shape == (blocks + 128 * 5 + 5,)


@pytest.mark.parametrize(
    ("problem", "lay"),
    [(CifarFS(queries=1), fake.cifar_pickles), (MiniImageNet(queries=1), fake.mini_pickles)],
    ids=["cifar_fs", "mini_imagenet"],
)
def test_channels_are_standardised_over_the_training_classes(root, problem, lay):
    lay(root)
    loaded = problem.images()
    pixels = loaded.images[loaded.splits["train"]].astype(float) / 255
    mean, deviation = pixels.mean(axis=(0, 1, 3, 4)), pixels.std(axis=(0, 1, 3, 4))
    np.testing.assert_allclose(loaded.moments[0].ravel(), mean, rtol=1e-10)
    np.testing.assert_allclose(loaded.moments[1].ravel(), deviation, rtol=1e-10)
    raw = type(problem)(queries=1, standardise=False).sample(_generator(), 3, "test").query_x
    got = problem.sample(_generator(), 3, "test").query_x
    assert raw.shape == (3, 5, *problem.shape)
    assert 0 <= raw.min() < raw.max() <= 1
    np.testing.assert_allclose(
        got, (raw.numpy() - mean[:, None, None]) / deviation[:, None, None], rtol=1e-9, atol=1e-9
    )
    twice = type(problem)(queries=1, input_scale=2.0).sample(_generator(), 3, "test").query_x
    assert torch.equal(twice, 2 * got)


# Damaged copies


def _parts(**changes) -> dict:
    """The parts of CIFAR-100 with some entries of ``train`` replaced, or left out where that is None."""
    parts = fake.cifar_parts()
    parts["train"] |= changes
    parts["train"] = {key: value for key, value in parts["train"].items() if value is not None}
    return parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "is no CIFAR-100: 'data'"),
        ({"data": [1]}, "data are no array of bytes"),
        ({"data": np.zeros((200, 3072))}, "data are no array of bytes"),
        (
            {"data": np.zeros((200, 3071), np.uint8)},
            r"200 labels, 200 file names, data of shape \(200, 3071\)",
        ),
        ({"data": np.zeros((199, 3072), np.uint8)}, r"data of shape \(199, 3072\)"),
        ({"filenames": ["a"]}, "200 labels, 1 file names"),
        ({"filenames": 7}, "no list of strings"),
        ({"fine_labels": [100] * 200}, "no numbers from 0 to 99"),
        ({"fine_labels": [-1] * 200}, "no numbers from 0 to 99"),
        ({"fine_labels": ["a"] * 200}, "no numbers from 0 to 99"),
        ({"fine_labels": [3] * 200}, r"equally many images, they have 1, 201\. Remove the copy"),
    ],
    ids=str,
)
def test_parts_of_cifar_that_do_not_fit_are_refused(root, changes, message):
    fake.cifar_pickles(root, _parts(**changes))
    with pytest.raises(UsageError, match=f"{message}.*metabench data get cifar_fs"):
        cifar_fs.load()


@pytest.mark.parametrize("content", [{}, [1], 5])
@pytest.mark.parametrize("part", ["meta", "train"])
def test_a_part_of_cifar_that_is_something_else_is_refused(root, part, content):
    fake.cifar_pickles(root, fake.cifar_parts() | {part: content})
    with pytest.raises(UsageError, match="is no CIFAR-100"):
        cifar_fs.load()


def test_other_classes_are_refused(root):
    parts = fake.cifar_parts()
    parts["meta"]["fine_label_names"] = ["aeroplane", *fake.CIFAR[1:]]
    fake.cifar_pickles(root, parts)
    with pytest.raises(UsageError, match=r"100 classes: 1 are missing, 1 are unknown \(such as apple\)"):
        cifar_fs.load()


def test_a_part_that_lacks_is_named(root):
    (fake.cifar_pickles(root) / "test").unlink()
    with pytest.raises(UsageError, match=r"cifar-100-python lacks test\. Remove it and run"):
        cifar_fs.load()


def test_an_empty_folder_of_classes_is_refused(root):
    (root / "cifar100" / "data").mkdir(parents=True)
    with pytest.raises(UsageError, match="equally many images, they have none"):
        cifar_fs.load()


def test_classes_with_fewer_images_are_refused(root):
    folder = fake.cifar_folders(root)
    next((folder / "pear").iterdir()).unlink()
    with pytest.raises(UsageError, match=r"equally many images, they have 2, 3\. Remove the copy"):
        cifar_fs.load()


class _Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_calls_is_refused_in_a_folder_and_in_an_archive(root, tmp_path):
    marker = tmp_path / "sprung"
    folder = fake.cifar_pickles(root, _parts(batch_label=_Touch(marker)))
    with pytest.raises(UsageError, match=rf"{folder / 'train'} is not read: it asks for '\w+\.system'"):
        cifar_fs.load()
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-100-python")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(UsageError, match=r"cifar-100-python/train in .*tar\.gz is not read: it asks for"):
        cifar_fs.load()
    assert not marker.exists()


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_an_archive_cannot_write_or_read_outside(root, tmp_path):
    """Nothing of it goes to the disk, and members that are links or have other names are not looked at."""
    outside = tmp_path / "outside"
    outside.write_bytes(pickle.dumps({"fine_label_names": ["secret"]}))
    strange = (
        _member("../escaped"),
        _member(str(tmp_path / "absolute")),
        _member("cifar-100-python/../../escaped"),
        _member("cifar-100-python/meta", tarfile.SYMTYPE, str(outside)),
        _member("cifar-100-python/train", tarfile.LNKTYPE, str(outside)),
        _member("cifar-100-python/test", tarfile.CHRTYPE),
        _member("cifar-100-python", tarfile.DIRTYPE),
    )
    fake.cifar_archive(root / "cifar-100-python.tar.gz", strange)
    before = sorted(tmp_path.rglob("*"))
    assert np.array_equal(fake.marks(cifar_fs.load().images), EXPECTED)
    assert sorted(tmp_path.rglob("*")) == before
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz") as archive:
        for member in strange:
            archive.addfile(member)
    cifar_fs._load.cache_clear()
    with pytest.raises(UsageError, match="lacks meta, test, train"):
        cifar_fs.load()


@pytest.mark.parametrize("left", [0.2, 0.5, 0.9, 0.999])
def test_a_damaged_archive_says_so(root, left):
    path = root / "cifar-100-python.tar.gz"
    fake.cifar_archive(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(UsageError, match=r"damaged|cut off|lacks") as caught:
        cifar_fs.load()
    assert "Remove it and run `metabench data get cifar_fs`" in str(caught.value)


def _rewrite(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("val.csv", lambda rows: rows.pop(0), r"val\.csv must begin with the line filename,label"),
        (
            "val.csv",
            lambda rows: rows.append(["none.jpg", "n01855672"]),
            r"line 50 of .*val\.csv names no image",
        ),
        ("val.csv", lambda rows: rows.append(["../train.csv", "n01855672"]), "names no image in"),
        ("val.csv", lambda rows: rows.append(["/etc/hostname", "n01855672"]), "names no image in"),
        ("val.csv", lambda rows: rows.append([""]), "names no image in"),
        ("val.csv", lambda rows: rows.append([rows[1][0]]), "names no image in"),
        ("val.csv", lambda rows: rows.append([rows[1][0], "n01532829"]), "n01532829, which belongs to train"),
        ("val.csv", lambda rows: rows.append([rows[1][0], "n1"]), "equally many images, they have 1, 3"),
        ("test.csv", lambda rows: rows.pop(), "equally many images, they have 2, 3"),
        ("test.csv", lambda rows: rows.__delitem__(slice(1, None)), "80 classes: 20 are missing"),
    ],
)
def test_lists_that_do_not_fit_are_refused(root, name, change, message):
    folder = fake.mini_images(root)
    _rewrite(folder / name, change)
    with pytest.raises(UsageError, match=message):
        mini_imagenet.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is no cache of mini-ImageNet"),
        ({}, "is no cache of mini-ImageNet: 'image_data'"),
        ({"image_data": np.zeros((1, 84, 84, 3), np.uint8)}, "is no cache of mini-ImageNet: 'class_dict'"),
        ({"image_data": np.zeros((1, 84, 84, 3)), "class_dict": {"n1": [0]}}, "no bytes"),
        ({"image_data": np.zeros((1, 32, 32, 3), np.uint8), "class_dict": {"n1": [0]}}, "no bytes"),
        ({"image_data": np.zeros((1, 84, 84, 3), np.uint8), "class_dict": [0]}, "is no cache"),
        *(
            (
                {"image_data": np.zeros((1, 84, 84, 3), np.uint8), "class_dict": {"n1": rows}},
                "rows that are no",
            )
            for rows in ([1], [-1], [0.0], ["a"], "a", [[0]], [2**70], None)
        ),
        ({"image_data": np.zeros((1, 84, 84, 3), np.uint8), "class_dict": {"n1": [[0], 0]}}, "is no cache"),
        (
            {"image_data": np.zeros((1, 84, 84, 3), np.uint8), "class_dict": {"n01532829": [0]}},
            "n01532829, which belongs to train",
        ),
        ({"image_data": np.zeros((1, 84, 84, 3), np.uint8), "class_dict": {"n1": [0]}}, "they have 1, 3"),
        (_Touch(Path("/nowhere/at/all")), r"asks for '\w+\.system'"),
        (np.array([{}], dtype=object), "of the type 'O8'"),
    ],
)
def test_cache_pickles_that_do_not_fit_are_refused(root, content, message):
    folder = fake.mini_pickles(root)
    folder.joinpath("mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match=message):
        mini_imagenet.load()


def test_rows_may_be_an_array(root):
    folder = fake.mini_pickles(root)
    parts = fake.mini_parts("val")
    parts["class_dict"] = {name: np.array(rows, np.int32) for name, rows in parts["class_dict"].items()}
    folder.joinpath("mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(parts))
    assert np.array_equal(fake.marks(mini_imagenet.load().images), EXPECTED)


# Splits and the real CIFAR-100


@pytest.mark.parametrize("name", ["cifar_fs", "mini_imagenet"])
def test_splits_have_the_published_sizes(name):
    table = stored_images.declared(name)
    assert [len(set(table[side])) for side in ("train", "val", "test")] == [64, 16, 20]
    assert len(stored_images.declared_split(name)) == 100
    assert list(table["train"]) == sorted(table["train"])


real = pytest.mark.skipif(
    not (os.environ.get("METABENCH_DATA") and data.sources("cifar_fs")),
    reason="METABENCH_DATA names no folder with CIFAR-100 in it",
)


@real
def test_real_cifar_is_read_as_python_reads_it():
    loaded, (source,) = cifar_fs.load(), data.sources("cifar_fs")
    n_images = loaded.images.shape[1]
    assert loaded.images.shape == (100, n_images, 3, 32, 32)
    assert {side: len(rows) for side, rows in loaded.splits.items()} == {"train": 64, "val": 16, "test": 20}
    mean, deviation = loaded.moments
    assert ((mean > 0.4) & (mean < 0.6)).all()
    assert ((deviation > 0.2) & (deviation < 0.35)).all()
    if source.is_dir():
        parts = [pickle.loads((source / part).read_bytes(), encoding="latin1") for part in ("train", "test")]
        names = pickle.loads((source / "meta").read_bytes(), encoding="latin1")["fine_label_names"]
        assert list(loaded.classes) == sorted(names)
        for number in (0, 41, 99):
            label = names.index(loaded.classes[number])
            rows = [
                (name, part["data"][i])
                for part in parts
                for i, name in enumerate(part["filenames"])
                if part["fine_labels"][i] == label
            ]
            pixels = np.stack([row for _, row in sorted(rows, key=lambda pair: pair[0])])
            assert np.array_equal(loaded.images[number].reshape(n_images, 3072), pixels)


@real
def test_real_cifar_is_the_same_as_folders_of_classes(tmp_path, monkeypatch):
    loaded = cifar_fs.load()
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path))
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    for name, images in zip(loaded.classes, loaded.images, strict=True):
        folder = tmp_path / "cifar100" / "data" / name
        folder.mkdir(parents=True)
        for i, pixels in enumerate(images[:60]):
            Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{i:03d}.png")
    assert np.array_equal(cifar_fs.load().images, loaded.images[:, :60])


@real
def test_real_cifar_few_shot_task():
    tasks = CifarFS(ways=20, shots=5, queries=10).sample(_generator(), 2, "test")
    assert tasks.support_x.shape == (2, 100, 3, 32, 32)
    assert tasks.query_x.shape == (2, 200, 3, 32, 32)
    assert abs(tasks.query_x.mean()) < 0.3
    assert 0.7 < tasks.query_x.std() < 1.3
