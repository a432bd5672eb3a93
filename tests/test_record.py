"""The store: records survive damaged files, full disks and other writers."""

import contextlib
import errno
import json
import math
import os
import re
import threading

import pytest

from bench import disk
from bench.errors import UsageError
from bench.record import Store, StoreError, find, unmeasured
from bench.record import loose as loose_module
from bench.record import store as store_module
from bench.record.fallback import VARIABLE
from tests.toy_records import ACCURACY, CELL, a_record, break_folder, everything, fails_with, taken_aside

HEX = "0" * 32


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


def test_a_later_record_takes_the_place_of_a_failed_one(store):
    store.write(a_record(value=1.0, status="error"))
    store.write(a_record(value=2.0, status="killed"))
    assert store.records() == [a_record(value=2.0, status="killed")]
    store.write(a_record(value=3.0))
    assert store.records() == [a_record(value=3.0)]
    assert everything(store.root) == [f"demo/records/{'a' * 16}.json"]
    assert store.repeated() == []


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("status", ["ok", "error"])
def test_an_ok_record_stays_and_the_next_is_reported(store, compacted, status):
    store.write(a_record(value=1.0))
    if compacted:
        store.compact()
    for _ in range(2):  # the same record again is kept once
        path = store.write(a_record(value=2.0, status=status))
    assert path.parent == store.folder / "repeated"
    assert re.fullmatch("a{16}[.][0-9a-f]{32}[.]json", path.name)
    assert json.loads(path.read_text()) == a_record(value=2.0, status=status)
    assert store.records() == [a_record(value=1.0)]
    assert store.repeated() == [("a" * 16, False)]
    store.write(a_record(value=2.0), replace=True)
    assert store.read("a" * 16) == a_record(value=2.0)
    assert store.ids() == {"a" * 16: "ok"}


def test_repeated_records_agree_up_to_times(store):
    store.write(a_record() | {"seconds": 1.0})
    store.write(a_record() | {"seconds": 2.0})
    assert store.repeated() == [("a" * 16, True)]


def test_numbers_that_json_lacks_are_null(store):
    extra = {"x": [math.nan, math.inf, -math.inf, 1e300], "y": (1, 2), "stats": {"z": [math.inf]}}
    path = store.write(a_record() | {"accuracy": ACCURACY | extra})
    text = path.read_text()
    extra = {"x": [None, None, None, 1e300], "y": [1, 2], "stats": {"z": [None]}}
    assert json.loads(text)["accuracy"] == ACCURACY | extra
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
    "schema": (lambda text: text.replace('"schema": 1', '"schema": 0'), "has schema 0, and this version"),
    "id": (lambda text: text.replace("a" * 16, "b" * 16), f"says that it is of cell {'b' * 16}"),
    "status": (lambda text: text.replace('"ok"', '"fine"'), "has the unknown status 'fine'"),
    "cell": (lambda text: text.replace('"cell"', '"sell"'), "has no description"),
    "NaN": (lambda text: text.replace("1.0\n", "NaN\n"), "is not valid JSON (it holds NaN)"),
    "infinity": (lambda text: text.replace('seconds": 1.0', 'seconds": 1e999'), "is wrong at seconds"),
    "start": (lambda text: text.replace('"started"', '"start"'), "is wrong at started (Field required)"),
    "day": (lambda text: text.replace("2026-01", "2026-13"), "is wrong at started"),
    "seconds": (lambda text: text.replace('seconds": 1.0', 'seconds": "x"'), "is wrong at seconds"),
    "reason": (lambda text: text.replace('"reason": null', '"reason": {}'), "is wrong at reason.message"),
    "lists": (
        lambda text: text.replace('"stats": {}', '"stats": {"z": [1.0, 2.0]}'),
        "converged has 1 values, and z 2",
    ),
    "rounds": (
        lambda text: text.replace(
            '"reason"',
            '"time": {"samples_s": [1], "reference_s": [1, 2], "control_s": [1], "reference": {"name": "x"}},'
            ' "reason"',
        ),
        "samples_s has 1 values, and reference_s 2",
    ),
    "memory": (lambda text: text.replace('"reason"', '"resident": {}, "reason"'), "has no growth_bytes"),
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
    elif reading == "ids" and list(DAMAGE).index(kind) >= list(DAMAGE).index("NaN"):  # they look no deeper
        assert len(store.ids()) == 2
        return
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


@pytest.mark.parametrize("reading", ["ids", "records", "compact", "repeated"])
def test_what_a_newer_version_wrote_stays(store, reading):
    store.write(a_record("c" * 16))
    path = store.write(a_record())
    if reading == "repeated":
        path = store.write(a_record(value=2.0))
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    before = everything(store.root)
    with pytest.raises(UsageError, match=f"cell {'a' * 16} of study demo has schema 2.*a newer version"):
        getattr(store, reading)()
    assert everything(store.root) == before
    assert store.set_aside == []


@pytest.mark.parametrize("damage", ["half", "folder"])
@pytest.mark.parametrize("reading", ["read", "ids", "records", "compact"])
def test_a_record_written_while_a_damaged_one_is_judged_stays(store, monkeypatch, reading, damage):
    """The reader has the old text in hand when a writer replaces the file."""
    path = store.loose.path("a" * 16)
    path.parent.mkdir(parents=True)
    if damage == "half":
        path.write_text("{")
    else:
        path.mkdir()
    real = os.rename

    def rename(source, target):
        if source == path:
            monkeypatch.undo()
            if damage == "folder":
                path.rmdir()
            Store(store.root, "demo", moves=False).write(a_record(), replace=True)
        return real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    seen = getattr(store, reading)(*["a" * 16] * (reading == "read"))
    assert seen == {
        "read": a_record(), "ids": {"a" * 16: "ok"}, "records": [a_record()], "compact": seen
    }[reading]  # fmt: skip
    assert store.read("a" * 16) == a_record()
    assert store.set_aside == []
    assert len(everything(store.root)) == 1


def test_a_reader_finds_a_record_that_another_one_has_taken_for_a_moment(store, monkeypatch):
    path = store.write(a_record())
    real = loose_module.read_text

    def read(file):
        if str(file) == str(path) and path.exists():
            taken_aside(path)
        return real(file)

    monkeypatch.setattr(loose_module, "read_text", read)
    assert store.ids() == {"a" * 16: "ok"}


def test_links_that_lead_in_a_circle_are_damaged_files(store):
    store.write(a_record("c" * 16))
    path = store.loose.path("a" * 16)
    path.symlink_to(path)
    part = store.folder / f"records.{'0' * 16}.parquet"
    part.symlink_to(part)
    assert store.ids() == {"c" * 16: "ok"}
    assert len(store.set_aside) == 2
    why = "is a symbolic link that leads in a circle; its cell will be run again; moved"
    assert sum(why in line for line in store.set_aside) == 1
    assert store.read("a" * 16) is None
    store.write(a_record())
    assert len(store.records()) == 2


def test_a_damaged_repeated_record_is_put_aside_and_its_cell_not_run_again(store):
    store.write(a_record())
    store.write(a_record(value=2.0)).write_text("{")
    (store.folder / "repeated" / f"{'a' * 16}.aaaa.json").mkdir()
    assert store.repeated() == []
    assert sorted("is a folder" in line for line in store.set_aside) == [False, True]
    assert not any("run again" in line for line in store.set_aside)
    assert store.ids() == {"a" * 16: "ok"}


def test_the_same_cell_can_be_set_aside_twice(store):
    for content in (b"1", b"2"):
        store.write(a_record()).write_bytes(content)
        assert store.read("a" * 16) is None
    assert sorted(p.read_bytes() for p in (store.folder / "set_aside").iterdir()) == [b"1", b"2"]


def test_damaged_file_in_a_folder_that_cannot_be_written(store, monkeypatch):
    store.write(a_record()).write_bytes(b"{")
    store.write(a_record("c" * 16))
    monkeypatch.setattr(os, "replace", fails_with(errno.EROFS))
    for _ in range(2):
        assert store.ids() == {"c" * 16: "ok"}
    (line,) = store.set_aside
    assert "stays where it is (Read-only file system)" in line


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("replace", [False, True])
def test_a_record_that_cannot_be_written_is_kept_elsewhere(store, tmp_path, monkeypatch, code, replace):
    path = store.write(a_record(value=1.0, status="error"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spare room"))
    break_folder(monkeypatch, store.folder, code)
    with pytest.raises(StoreError) as caught:
        store.write(a_record(value=2.0), replace)
    assert isinstance(caught.value, UsageError)  # one block for the user, no traceback
    (own,) = (tmp_path / "spare room").iterdir()
    file = own / "demo" / "records" / path.name
    for text in (
        f"cannot write {path}: {os.strerror(code)}. The record is kept in {file}",
        "Finished records",
    ):
        assert text in str(caught.value)
    assert f"metabench merge '{own}' --results {store.root}" in str(caught.value)
    assert json.loads(file.read_text()) == a_record(value=2.0)
    assert everything(store.folder) == [f"records/{path.name}"]  # no litter
    assert store.records() == [a_record(value=1.0, status="error")]


def test_two_records_of_a_cell_are_kept_elsewhere_too(store, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spare"))
    break_folder(monkeypatch, store.folder)
    for value in (1.0, 2.0):
        with pytest.raises(StoreError, match="is kept in"):
            store.write(a_record(value=value))
    (own,) = (tmp_path / "spare").iterdir()
    spare = Store(own, "demo")
    assert (spare.records(), spare.repeated()) == ([a_record(value=1.0)], [("a" * 16, False)])


def test_records_of_two_folders_of_results_are_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spare"))
    errors = []
    for name, value in (("a/results", 1.0), ("b/results", 2.0)):
        store = Store(tmp_path / name, "demo")
        break_folder(monkeypatch, store.folder)
        with pytest.raises(StoreError) as caught:
            store.write(a_record(value=value))
        errors.append(str(caught.value))
        monkeypatch.undo()
        monkeypatch.setenv(VARIABLE, str(tmp_path / "spare"))
    kept = [Store(folder, "demo") for folder in (tmp_path / "spare").iterdir()]
    assert sorted(one.records()[0]["accuracy"]["x"] for one in kept) == [[1.0], [2.0]]
    assert [one.repeated() for one in kept] == [[], []]
    for one in kept:
        assert sum(f"metabench merge {one.root} --results" in error for error in errors) == 1


def test_without_room_anywhere_both_are_said(store, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "spare"))
    break_folder(monkeypatch, tmp_path)
    with pytest.raises(StoreError) as caught:
        store.write(a_record())
    for text in ("cannot write", f"Nor could the record be kept in {tmp_path / 'spare'}", VARIABLE):
        assert text in str(caught.value)
    assert str(caught.value).count("No space left on device") == 2


def test_the_fallback_lies_in_a_folder_of_the_users_own(store, tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    break_folder(monkeypatch, store.folder)
    own = tmp_path / "tmp" / f"metabench-fallback-{os.getuid()}"
    with pytest.raises(StoreError, match=str(own)):
        store.write(a_record())
    assert own.stat().st_mode & 0o777 == 0o700
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    own.rename(own.with_name(f"metabench-fallback-{uid + 1}"))
    with pytest.raises(StoreError, match="somebody else's"):
        store.write(a_record("b" * 16))


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


def test_a_file_system_without_links(store, monkeypatch):
    monkeypatch.setattr(os, "link", fails_with(errno.EPERM))
    store.write(a_record(status="error"))
    store.write(a_record(value=1.0))
    store.write(a_record(value=2.0))
    assert store.records() == [a_record(value=1.0)]
    assert store.repeated() == [("a" * 16, False)]
    assert len(everything(store.root)) == 2


@pytest.mark.parametrize("compacted", [False, True])
def test_a_clock_that_is_ahead_does_not_hide_what_comes_later(store, compacted):
    path = store.write(a_record(status="error"))
    future = path.stat().st_mtime_ns + 10**12
    os.utime(path, ns=(future, future))
    if compacted:
        store.compact()
    assert store.write(a_record(value=2.0)).stat().st_mtime_ns > future
    store.compact()
    store.write(a_record(value=3.0), replace=True)
    store.compact()
    assert store.records() == [a_record(value=3.0)]
    assert store.repeated() == []


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
            store.write(a_record(value=value), replace=True)

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
    old, young = path.with_name(f".x.json.host.1.{HEX}.tmp"), path.with_name(f".y.json.host.1.{HEX}.tmp")
    for litter in (old, young):
        litter.write_text("half")
    os.utime(old, (0, 0))
    assert store.ids() == {"a" * 16: "ok"}  # not read as records
    store.discard_litter()
    assert (old.exists(), young.exists(), path.exists()) == (False, True, True)


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


@pytest.mark.parametrize("step", ["create", "take"])
def test_a_writer_that_is_a_moment_late_loses_nothing(store, monkeypatch, step):
    """Another one stores an ok record after this one has looked, and before it makes or takes the file."""
    if step == "take":
        store.write(a_record(status="error"))
    real = getattr(store_module, step)

    def late(*arguments):
        monkeypatch.undo()
        Store(store.root, "demo").write(a_record(value=1.0))
        return real(*arguments)

    monkeypatch.setattr(store_module, step, late)
    assert store.write(a_record(value=2.0)).parent == store.folder / "repeated"
    assert store.records() == [a_record(value=1.0)]
    assert store.repeated() == [("a" * 16, False)]
    assert len(everything(store.root)) == 2


def test_a_writer_that_is_late_for_a_record_that_was_compacted_at_once(store, monkeypatch):
    real = store_module.create

    def late(*arguments):
        monkeypatch.undo()
        other = Store(store.root, "demo")
        other.write(a_record(value=1.0))
        other.compact()
        return real(*arguments)

    monkeypatch.setattr(store_module, "create", late)
    store.write(a_record(value=2.0))
    assert store.records() == [a_record(value=1.0)]
    assert store.repeated() == [("a" * 16, False)]


class Crash(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("operation", ["rename", "link", "unlink", "fsync"])
@pytest.mark.parametrize("after", [0, 1])
def test_crash_while_a_failed_record_makes_way(store, monkeypatch, operation, after):
    store.write(a_record(status="error"))
    calls, real = [], getattr(os, operation)

    def crash(*arguments):
        if len(calls) >= after:
            raise Crash
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(os, operation, crash)
    with contextlib.suppress(Crash):
        store.write(a_record(value=2.0))
    monkeypatch.undo()
    for _ in range(2):
        assert store.records() in ([a_record(status="error")], [a_record(value=2.0)])
        assert len(store.ids()) == 1
        store.compact()
    assert store.repeated() == []
    assert store.write(a_record(value=3.0)).parent.name in ("records", "repeated")
