"""Downloading with checksums from a local server, and the cache of prepared arrays."""

import functools
import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import data
from bench.errors import UsageError
from bench.problems import cifar_fs
from tests import fake_photographs


def _zip_bytes(folder: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{folder}/Greek/character01/0001_01.png", b"not looked at")
    return buffer.getvalue()


ARCHIVES = {name: _zip_bytes(name[:-4]) for name in data.DATA_SETS["omniglot"].archives}
REGISTRY = {
    "omniglot": data.DataSet(
        "omniglot-py",
        "http://127.0.0.1:9/nobody-listens-here/",
        {name: f"md5:{hashlib.md5(content).hexdigest()}" for name, content in ARCHIVES.items()},
    )
}


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _serving(handler: type[_Quiet], folder: Path) -> Iterator[str]:
    bound = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), bound) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def served(root, tmp_path, monkeypatch):
    """A folder that METABENCH_MIRROR serves, with both archives in it."""
    folder = tmp_path / "served" / "omniglot-py"
    folder.mkdir(parents=True)
    for name, content in ARCHIVES.items():
        (folder / name).write_bytes(content)
    with _serving(_Quiet, folder.parent) as url:
        monkeypatch.setenv("METABENCH_MIRROR", url)
        yield folder


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data folder; the cache folder is fresh too."""
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("METABENCH_MIRROR", raising=False)
    return tmp_path / "data"


def test_download_verifies_and_is_done_once(root, served):
    assert data.status()["omniglot"]["found"] is False
    folder = data.get("omniglot", REGISTRY, retries=0)
    assert folder == root / "omniglot-py" == data.where("omniglot")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == ARCHIVES
    assert data.status()["omniglot"] == {"found": True, "where": str(folder), "what_to_do": None}
    for name in ARCHIVES:
        (served / name).unlink()
    assert data.get("omniglot", REGISTRY, retries=0) == folder


def test_wrong_checksum_keeps_nothing_and_says_so(root, served):
    (served / "images_evaluation.zip").write_bytes(_zip_bytes("tampered"))
    with pytest.raises(UsageError, match=r"images_evaluation\.zip is not the file .* METABENCH_DATA"):
        data.get("omniglot", REGISTRY, retries=0)
    assert [p.name for p in root.rglob("*") if p.is_file()] == ["images_background.zip"]
    (served / "images_evaluation.zip").write_bytes(ARCHIVES["images_evaluation.zip"])
    data.get("omniglot", REGISTRY, retries=0)
    assert data.sources("omniglot")


def test_a_failed_download_is_tried_again(root, served, monkeypatch):
    requests = []

    class Flaky(_Quiet):
        def do_GET(self) -> None:
            requests.append(self.path)
            if len(requests) == 1:
                self.send_error(503)
            else:
                super().do_GET()

    with _serving(Flaky, served.parent) as url:
        monkeypatch.setenv("METABENCH_MIRROR", url)
        data.get("omniglot", REGISTRY, retries=1)
    assert requests.count("/omniglot-py/images_background.zip") == 2
    assert data.sources("omniglot")


def test_missing_file_on_the_server_names_the_address(root, served):
    (served / "images_background.zip").unlink()
    with pytest.raises(UsageError, match=r"omniglot-py/images_background\.zip .*404"):
        data.get("omniglot", REGISTRY, retries=0)


def test_no_network_says_where_a_copy_must_lie(root):
    with pytest.raises(UsageError, match="Without a network put a copy") as caught:
        data.get("omniglot", REGISTRY, retries=0)
    assert str(root / "omniglot-py") in str(caught.value)
    assert "METABENCH_MIRROR" in str(caught.value)


def test_own_copy_is_taken_as_it_is(root):
    folder = root / "omniglot-py"
    (folder / "images_background").mkdir(parents=True)  # one part unpacked, the other a repacked zip
    (folder / "images_evaluation.zip").write_bytes(_zip_bytes("repacked"))
    assert data.get("omniglot", REGISTRY, retries=0) == folder
    assert data.sources("omniglot") == [folder / "images_background", folder / "images_evaluation.zip"]


def test_damaged_zip_is_not_found_and_is_replaced(root, served):
    folder = root / "omniglot-py"
    folder.mkdir(parents=True)
    content = ARCHIVES["images_background.zip"]
    (folder / "images_background.zip").write_bytes(content[: len(content) // 2])
    assert data.sources("omniglot") == []
    data.get("omniglot", REGISTRY, retries=0)
    assert (folder / "images_background.zip").read_bytes() == content


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'omniglot'"):
        data.get("omniglott")
    with pytest.raises(UsageError, match="did you mean 'omniglot'"):
        data.where("omniglott")


def test_official_checksums_are_the_published_ones():
    cifar = data.DATA_SETS["cifar_fs"]
    assert cifar.url == "https://www.cs.toronto.edu/~kriz/"
    assert cifar.archives == {"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"}
    assert data.DATA_SETS["omniglot"].archives == {
        "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
    }


def _cifar(served: Path) -> dict[str, data.DataSet]:
    """A generated archive in the served folder's parent, and a registry that expects it."""
    archive = served.parent / "cifar-100-python.tar.gz"
    fake_photographs.cifar_archive(archive)
    checksum = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    return {"cifar_fs": replace(data.DATA_SETS["cifar_fs"], archives={archive.name: checksum})}


def test_cifar_is_downloaded_verified_and_read(root, served):
    registry = _cifar(served)
    with pytest.raises(UsageError, match=r"cifar-100-python\.tar\.gz is not the file that was expected"):
        data.get("cifar_fs", retries=0)  # the official checksum
    assert not list(root.rglob("*"))
    assert data.get("cifar_fs", registry, retries=0) == root
    assert [path.name for path in root.iterdir()] == ["cifar-100-python.tar.gz"]
    assert cifar_fs.load().images.shape == (100, fake_photographs.PER_CLASS, 3, 32, 32)
    assert data.status()["cifar_fs"] == {"found": True, "where": str(root), "what_to_do": None}


@pytest.mark.parametrize("lay", [fake_photographs.cifar_pickles, fake_photographs.cifar_folders])
def test_another_form_of_cifar_is_not_downloaded_again(root, lay):
    lay(root)
    assert data.get("cifar_fs", retries=0) == root
    assert len(list(root.iterdir())) == 1


def test_no_network_names_all_forms_of_cifar(root):
    nowhere = {"cifar_fs": replace(data.DATA_SETS["cifar_fs"], url="http://127.0.0.1:9/")}
    with pytest.raises(
        UsageError, match=r"cifar-100-python\.tar\.gz \(packed or unpacked\) or cifar100/data into"
    ):
        data.get("cifar_fs", nowhere, retries=0)


def test_mini_imagenet_is_not_downloaded_but_explained(root):
    with pytest.raises(
        UsageError, match=r"mini_imagenet cannot be downloaded: .*https://image-net\.org"
    ) as caught:
        data.get("mini_imagenet", retries=0)
    folder = root / "mini-imagenet"
    forms = (
        "images, train.csv, val.csv and test.csv or mini-imagenet-cache-train.pkl, "
        f"mini-imagenet-cache-val.pkl and mini-imagenet-cache-test.pkl into {folder}"
    )
    assert f"put a copy of {forms}, or set METABENCH_DATA to a folder that has them in" in str(caught.value)
    assert not data.status()["mini_imagenet"]["found"]
    fake_photographs.mini_pickles(root)
    assert data.get("mini_imagenet", retries=0) == folder
    next(folder.glob("*val.pkl")).unlink()
    assert data.sources("mini_imagenet") == []


def _make(calls: list[int]) -> data.Arrays:
    calls.append(1)
    return {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])}


@pytest.mark.parametrize("damage", [None, b"", b"PK\x03\x04 half a zip", "truncate", "flip"])
def test_cache_is_used_and_a_damaged_one_is_made_again(root, damage):
    calls: list[int] = []
    make = functools.partial(_make, calls)
    data.cached("name", make)
    path = data.cache_root() / "name.npz"
    whole = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(whole[:-30])
    elif damage == "flip":  # inside the first member: caught by the zip's own checksum
        path.write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    elif damage is not None:
        path.write_bytes(damage)
    again = data.cached("name", make)
    assert len(calls) == (1 if damage is None else 2)
    assert data.fingerprint(again) == data.fingerprint(_make([]))
    assert [p.name for p in path.parent.iterdir()] == ["name.npz"]
    data.cached("name", make)
    assert len(calls) == (1 if damage is None else 2)


def test_cache_never_unpickles(root):
    path = data.cache_root() / "name.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, allow_pickle=True, a=np.array([{"an": "object"}], dtype=object))
    assert data.cached("name", lambda: {"a": np.zeros(1)})["a"].dtype == np.float64


def test_a_cache_that_cannot_be_written_is_no_error(root, caplog, monkeypatch):
    root.mkdir()
    (root / "file").touch()
    monkeypatch.setenv("METABENCH_CACHE", str(root / "file"))  # a file where a folder is needed
    assert list(data.cached("name", functools.partial(_make, []))) == ["a", "b"]
    assert "cannot be written" in caplog.text


def test_an_interrupted_write_leaves_no_file(root):
    with pytest.raises(ValueError, match="pickle"):
        data.cached("name", lambda: {"a": np.array([{}], dtype=object)})
    assert list(data.cache_root().iterdir()) == []


def test_fingerprint_sees_values_shape_type_and_name():
    a = np.arange(6, dtype=np.int32)
    prints = [
        data.fingerprint(arrays)
        for arrays in (
            {"a": a},
            {"b": a},
            {"a": a.reshape(2, 3)},
            {"a": a.view(np.uint32)},
            {"a": a + 1},
            {"a": a, "b": a},
        )
    ]
    assert len(set(prints)) == len(prints)
    assert data.fingerprint({"x": a, "a": a}) == data.fingerprint({"a": a.copy(), "x": a[::-1][::-1]})
