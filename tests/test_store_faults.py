"""The store under attack: processes killed at random points, many at once, full and read-only disks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.record import Store, StoreError
from bench.record.fallback import VARIABLE
from tests.command_line import metabench
from tests.toy_records import everything, true_record

PROGRAM = Path(__file__).parent / "store_killing.py"


def attack(*arguments: object) -> str:
    """Run the program; its line."""
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_anywhere_nothing_is_lost_and_nothing_doubled(tmp_path, seed):
    """A writer and a compactor, 200 kills in all; see `store_killing`."""
    kills = int(attack("kill", tmp_path, 100, seed).split()[0])
    assert kills >= 100


def test_many_writers_and_compactors_at_once(tmp_path):
    """As two drivers with four workers each have it that run the same cells, and compact meanwhile."""
    assert attack("crowd", tmp_path, 8, 2, 24, 0) == "192 records of 24 cells, 168 of them repeated"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root, and to be allowed to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk, tmp_path, monkeypatch):
    """Records up to the last that fits; the next one elsewhere; `merge` brings it in once there is room."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spare"))
    store, written = Store(small_disk, "demo"), []

    def fill() -> None:
        for seed in range(100):
            record = true_record(seed) | {"note": "x" * 3000}
            written.append(record["id"])
            store.write(record)

    with pytest.raises(StoreError, match=r"No space left on device. The record is kept in .*spare") as caught:
        fill()
    assert "metabench merge" in str(caught.value)
    assert len(written) > 3
    assert set(store.ids()) == set(written[:-1])
    assert not [name for name in everything(small_disk) if name.endswith(".tmp")]
    with pytest.raises(StoreError, match=r"cannot write .*records\.parquet: No space left"):
        store.compact()
    assert set(store.ids()) == set(written[:-1])
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    (spare,) = (tmp_path / "spare").iterdir()
    assert metabench("merge", spare, "--results", small_disk).code == 0
    assert set(store.ids()) == set(written)
    assert store.repeated() == []


def test_a_disk_that_can_only_be_read(small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spare"))
    store = Store(small_disk, "demo")
    store.write(true_record(0))
    store.loose.path("b" * 16).write_text("{")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match=r"Read-only file system.*is kept in"):
        store.write(true_record(1))
    assert store.ids() == {true_record(0)["id"]: "ok"}
    assert "stays where it is (Read-only file system)" in store.set_aside[0]
    with pytest.raises(StoreError, match="Read-only file system"):
        store.compact()
    assert json.loads(metabench("verify", "demo", "--results", small_disk, "--json").out)["cells"] == 1
