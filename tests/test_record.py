"""The store: records survive damaged files, full disks, other writers and crashes."""

import errno
import json
import math
import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench import disk, record
from bench.errors import UsageError
from bench.record import SCHEMA, STATUSES, Store, StoreError, find, unmeasured

CELL = {"problem": {"name": "sinusoid"}, "method": {"name": "fomaml"}, "seed": 0}


def a_record(cell_id: str = "a" * 16, status: str = "ok", value: float = 1.0) -> dict:
    return {
        "schema": SCHEMA,
        "id": cell_id,
        "study": "demo",
        "cell": CELL,
        "status": status,
        "reason": None,
        "accuracy": {"x": [value]},
    }


def everything(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path, "demo")


def test_round_trip(store):
    path = store.write(a_record(value=0.1))
    assert path == store.folder / "records" / f"{'a' * 16}.json"
    assert store.read("a" * 16) == a_record(value=0.1)
    assert store.ids() == {"a" * 16: "ok"}
    assert everything(store.root) == [f"demo/records/{'a' * 16}.json"]


def test_an_empty_store_is_empty_and_reading_makes_no_folder(store):
    assert (store.read("a" * 16), store.ids(), store.records()) == (None, {}, [])
    assert find(store.root, "a") == []
    assert not store.folder.exists()
    with pytest.raises(StoreError, match=r"no records in .*demo to compact"):
        store.compact()
    assert not store.folder.exists()


def test_later_writes_win(store):
    store.write(a_record(value=1.0))
    store.write(a_record(value=2.0, status="non_finite"))
    assert store.records() == [a_record(value=2.0, status="non_finite")]


def test_numbers_that_json_lacks_are_null(store):
    path = store.write(a_record() | {"accuracy": {"x": [math.nan, math.inf, -math.inf, 1e300], "y": (1, 2)}})
    text = path.read_text()
    assert json.loads(text)["accuracy"] == {"x": [None, None, None, 1e300], "y": [1, 2]}
    assert text.startswith('{\n "accuracy": {')  # sorted, one column a level: readable differences
    assert text.endswith("}\n")


def test_text_is_the_same_whatever_the_order_of_keys(store):
    one = store.write(a_record()).read_bytes()
    assert store.write(dict(reversed(a_record().items()))).read_bytes() == one


@pytest.mark.parametrize(
    "fault",
    [
        {"schema": 2},
        {"schema": None},
        {"id": None},
        {"status": "fine"},
        {"cell": None},
        {"cell": {}},
        {"accuracy": "x"},
    ],
)
def test_what_is_no_record_is_not_written(store, fault):
    with pytest.raises(ValueError, match="this record"):
        store.write(a_record() | fault)
    assert everything(store.root) == []


def test_unmeasured_is_a_record(store):
    reason = {"message": "why", "type": "Because", "traceback": None}
    made = unmeasured("demo", "a" * 16, CELL, "killed", reason, 1.5)
    store.write(made)
    assert store.read("a" * 16) == made
    assert (made["status"], made["reason"], made["seconds"]) == ("killed", reason, 1.5)
    assert made["started"].endswith("Z")


DAMAGE = {
    "empty": (lambda text: "", "is empty"),
    "half-written": (lambda text: text[: len(text) // 2], "is not valid JSON"),
    "binary": (lambda text: "\udcff\udc80", "is not valid JSON"),
    "deep": (lambda text: "[" * 100_000, "is not valid JSON"),
    "list": (lambda text: "[1]", "is no JSON object"),
    "schema": (lambda text: text.replace('"schema": 1', '"schema": 99'), "has schema 99, and this version"),
    "id": (lambda text: text.replace("a" * 16, "b" * 16), f"says that it is of cell {'b' * 16}"),
    "status": (lambda text: text.replace('"ok"', '"fine"'), "has the unknown status 'fine'"),
    "cell": (lambda text: text.replace('"cell"', '"sell"'), "has no description"),
    "part": (lambda text: text.replace('"accuracy": {', '"accuracy": 1, "_": {'), "is wrong at accuracy"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("reading", ["read", "ids", "records"])
def test_damaged_file_is_set_aside(store, kind, reading):
    damage, why = DAMAGE[kind]
    path = store.write(a_record())
    store.write(a_record("c" * 16))
    damaged = damage(path.read_text()).encode(errors="surrogateescape")
    path.write_bytes(damaged)
    if reading == "read":
        assert store.read("a" * 16) is None
    else:
        assert len(getattr(store, reading)()) == 1
    (line,) = store.set_aside
    assert why in line
    assert str(path) in line
    assert not path.exists()
    (kept,) = (store.folder / "set_aside").iterdir()
    assert str(kept) in line
    assert kept.read_bytes() == damaged  # nothing is deleted
    assert store.ids() == {"c" * 16: "ok"}
    store.write(a_record())  # and the cell can be done again
    assert set(store.ids()) == {"a" * 16, "c" * 16}
    assert len(store.set_aside) == 1


def test_the_same_cell_can_be_set_aside_twice(store):
    for content in (b"1", b"2"):
        store.write(a_record()).write_bytes(content)
        assert store.read("a" * 16) is None
    assert sorted(p.read_bytes() for p in (store.folder / "set_aside").iterdir()) == [b"1", b"2"]


def fails_with(code: int):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    return fail


def test_damaged_file_in_a_folder_that_cannot_be_written(store, monkeypatch):
    store.write(a_record()).write_bytes(b"{")
    store.write(a_record("c" * 16))
    monkeypatch.setattr(os, "replace", fails_with(errno.EROFS))
    for _ in range(2):
        assert store.ids() == {"c" * 16: "ok"}
    (line,) = store.set_aside
    assert "stays where it is (Read-only file system)" in line


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_full_or_read_only_disk(store, monkeypatch, call, code):
    path = store.write(a_record(value=1.0))
    monkeypatch.setattr(os, call, fails_with(code))
    with pytest.raises(StoreError) as caught:
        store.write(a_record(value=2.0))
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert isinstance(caught.value, UsageError)  # one block for the user, no traceback
    assert everything(store.root) == [f"demo/records/{'a' * 16}.json"]  # no litter
    assert store.read("a" * 16) == a_record(value=1.0)


def test_disk_that_fills_while_writing(store, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            self.file.write(content[:10])
            fails_with(errno.ENOSPC)()

    def fill(path, mode):
        return Full(open(path, mode))

    monkeypatch.setattr(disk, "open", fill, raising=False)
    with pytest.raises(StoreError, match="No space left"):
        store.write(a_record())
    assert everything(store.root) == []


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "results").write_text("")
    store = Store(tmp_path / "results", "demo")
    for use in (lambda: store.write(a_record()), store.ids, lambda: store.read("a" * 16)):
        with pytest.raises(StoreError, match=r"cannot (read|write) .*results"):
            use()


def test_two_writers_of_one_cell(store):
    """Whoever reads in between sees one record or the other, never a mixture, and no file is left over."""
    stop, wrong = threading.Event(), []

    def write(value: float) -> None:
        for _ in range(40):
            store.write(a_record(value=value))

    def read() -> None:
        reader = Store(store.root, "demo")
        while not stop.is_set():
            got = reader.read("a" * 16)
            if got not in (None, a_record(value=1.0), a_record(value=2.0)):
                wrong.append(got)
        wrong.extend(reader.set_aside)

    threads = [threading.Thread(target=write, args=(v,)) for v in (1.0, 2.0)]
    reader = threading.Thread(target=read)
    for thread in [reader, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    assert wrong == []
    assert everything(store.root) == [f"demo/records/{'a' * 16}.json"]


def test_litter_goes_when_it_is_old(store):
    path = store.write(a_record())
    old, young = path.with_name(".x.json.host.1.abc.tmp"), path.with_name(".y.json.host.1.abc.tmp")
    for litter in (old, young):
        litter.write_text("half")
    os.utime(old, (0, 0))
    assert store.ids() == {"a" * 16: "ok"}  # not read as records
    store.discard_litter()
    assert (old.exists(), young.exists(), path.exists()) == (False, True, True)


IDS = [letter * 16 for letter in "abc"]


@pytest.fixture
def full(store) -> Store:
    for i, status in zip(IDS, STATUSES, strict=False):
        store.write(a_record(i, status))
    return store


def test_compact(full):
    before = full.records()
    path = full.compact()
    assert path == full.folder / "records.parquet"
    assert everything(full.root) == ["demo/records.parquet"]
    table = pq.read_table(path)
    assert table.column_names == ["id", "status", "json"]
    assert table.column("id").to_pylist() == IDS
    assert table.column("status").to_pylist() == list(STATUSES[:3])
    assert pq.ParquetFile(path).metadata.row_group(0).column(2).compression == "ZSTD"
    assert full.records() == before
    assert full.ids() == dict(zip(IDS, STATUSES, strict=False))
    assert full.read(IDS[1]) == a_record(IDS[1], STATUSES[1])
    content = path.read_bytes()
    assert full.compact().read_bytes() == content  # nothing new, nothing changed


def test_loose_files_win_over_the_compacted(full):
    full.compact()
    full.write(a_record(IDS[0], "error"))
    full.write(a_record("d" * 16))
    assert full.ids() == {IDS[0]: "error", IDS[1]: STATUSES[1], IDS[2]: STATUSES[2], "d" * 16: "ok"}
    assert full.read(IDS[0]) == a_record(IDS[0], "error")
    full.compact()
    assert full.ids() == {IDS[0]: "error", IDS[1]: STATUSES[1], IDS[2]: STATUSES[2], "d" * 16: "ok"}
    assert everything(full.root) == ["demo/records.parquet"]


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize(
    ("place", "name", "after"),
    [
        (os, "fsync", 0),  # while the new Parquet file is written
        (os, "replace", 0),  # before it takes the old one's place
        (Path, "unlink", 1),  # between that and the first loose file
        (Path, "unlink", 2),  # between two loose files
    ],
)
def test_crash_while_compacting(full, monkeypatch, place, name, after):
    full.compact()
    full.write(a_record(IDS[0], "error"))
    full.write(a_record("d" * 16))
    before = full.records()
    calls, real = [], getattr(place, name)

    def crash(*args, **kwargs):
        if len(calls) >= after:
            raise Crash
        calls.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(place, name, crash)
    with pytest.raises(Crash):
        full.compact()
    monkeypatch.undo()
    assert Store(full.root, "demo").records() == before
    again = Store(full.root, "demo")
    again.compact()
    assert again.records() == before
    assert pq.read_table(again.parquet).column("id").to_pylist() == [*IDS, "d" * 16]


def test_a_record_written_while_compacting_is_kept(full, monkeypatch):
    """Both a new cell and a newer record of an old one."""
    real = record.write_whole

    def write(path, content):
        real(path, content)
        if path == full.parquet:
            monkeypatch.undo()
            full.write(a_record(IDS[0], "error"))
            full.write(a_record("d" * 16))

    monkeypatch.setattr(record, "write_whole", write)
    full.compact()
    assert full.ids() == {IDS[0]: "error", IDS[1]: STATUSES[1], IDS[2]: STATUSES[2], "d" * 16: "ok"}


def test_another_compaction_in_between_loses_nothing(full, monkeypatch):
    real = record._parquet

    def meanwhile(records):
        monkeypatch.undo()
        other = Store(full.root, "demo")
        other.write(a_record("d" * 16))
        other.compact()
        return real(records)

    monkeypatch.setattr(record, "_parquet", meanwhile)
    full.compact()
    assert set(full.ids()) == {*IDS, "d" * 16}


def test_full_disk_while_compacting(full, monkeypatch):
    before = full.records()
    monkeypatch.setattr(os, "fsync", fails_with(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"cannot write .*records\.parquet: No space left"):
        full.compact()
    assert full.records() == before
    assert everything(full.root) == [f"demo/records/{i}.json" for i in IDS]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 4
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def other_table(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "damage", [lambda c: b"", lambda c: c[: len(c) // 2], flipped, lambda c: b"x" * len(c), other_table]
)
def test_damaged_parquet_is_set_aside(full, damage):
    damaged = damage(full.compact().read_bytes())
    full.parquet.write_bytes(damaged)
    full.write(a_record("d" * 16))
    assert full.ids() == {"d" * 16: "ok"}
    (line,) = full.set_aside
    assert "is not a readable Parquet file of records" in line
    assert "the cells in it will be run again" in line
    (kept,) = (full.folder / "set_aside").iterdir()
    assert str(kept) in line
    assert kept.read_bytes() == damaged
    full.compact()
    assert full.ids() == {"d" * 16: "ok"}


def test_find_looks_in_all_studies(tmp_path):
    one, two = Store(tmp_path, "one"), Store(tmp_path, "two")
    one.write(a_record("ab" * 8))
    two.write(a_record("ab" * 8))
    two.write(a_record("ac" * 8))
    two.compact()
    two.write(a_record("bb" * 8))
    (tmp_path / "reference").mkdir()
    assert [(study, r["id"]) for study, r in find(tmp_path, "ab")] == [("one", "ab" * 8), ("two", "ab" * 8)]
    assert [(study, r["id"]) for study, r in find(tmp_path, "a")] == [
        ("one", "ab" * 8),
        ("two", "ab" * 8),
        ("two", "ac" * 8),
    ]
    assert find(tmp_path, "[") == []
