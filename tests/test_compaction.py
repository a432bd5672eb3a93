"""Compaction: loose records and parts are one store, whatever happens while they are moved."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import UsageError
from bench.record import STATUSES, Store, StoreError, compaction, parquet, parts
from bench.record.compaction import mergeable
from bench.record.form import text_of
from bench.record.parquet import part_paths
from bench.record.parts import Part
from bench.record.verify import verify
from tests.toy_records import a_record, everything, fails_with, taken_aside

IDS = [letter * 16 for letter in "abc"]
EXPECTED = dict(zip(IDS, STATUSES, strict=False))
REFERENCE = Path(__file__).parent.parent / "results" / "reference"


@pytest.fixture
def full(tmp_path) -> Store:
    """Three loose records: ok, not_converged, non_finite."""
    store = Store(tmp_path, "demo")
    for i, status in EXPECTED.items():
        store.write(a_record(i, status))
    return store


def test_compact(full):
    before = full.records()
    (path,) = full.compact()
    assert everything(full.folder) == [path.name]
    assert path.name == f"records.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.parquet"
    table = pq.read_table(path)
    assert table.column_names == ["id", "status", "written", "json"]
    assert table.column("id").to_pylist() == IDS
    assert table.column("status").to_pylist() == list(EXPECTED.values())
    assert table.column("json").to_pylist() == [text_of(record).decode() for record in before]
    assert pq.ParquetFile(path).metadata.row_group(0).column(3).compression == "ZSTD"
    for store in (full, Store(full.root, "demo")):
        assert store.records() == before
        assert store.ids() == EXPECTED
        assert store.read(IDS[1]) == a_record(IDS[1], STATUSES[1])
    assert full.compact() == [path]  # nothing new, nothing changed
    assert everything(full.folder) == [path.name]


def test_nothing_to_compact(tmp_path):
    store = Store(tmp_path, "demo")
    with pytest.raises(StoreError, match=r"no records in .*demo to compact"):
        store.compact()
    assert not store.folder.exists()


def test_loose_files_win_over_the_compacted(full):
    full.compact()
    full.write(a_record(IDS[0], "error"), replace=True)
    full.write(a_record("d" * 16))
    expected = EXPECTED | {IDS[0]: "error", "d" * 16: "ok"}
    assert full.ids() == expected
    assert full.read(IDS[0]) == a_record(IDS[0], "error")
    assert len(full.compact()) == 1
    assert full.ids() == expected
    assert len(full.records()) == 4
    assert len(pq.read_table(full.compact()[0])) == 4  # the older version went as the parts were merged


def test_the_order_of_parts_and_their_merging_decide_nothing(full, monkeypatch):
    """Versions of one record in parts that several compactions have made at once."""
    monkeypatch.setattr(compaction, "PART_RECORDS", 1)  # nothing is merged
    for value in range(5):
        full.write(a_record(IDS[0], "error", value), replace=True)
        full.compact()
    assert len(full.parts.all()) == 7
    assert full.read(IDS[0]) == a_record(IDS[0], "error", 4)
    for path in part_paths(full.folder):  # copies under other names
        shutil.copy(
            path, path.with_name(f"records.{hashlib.sha256(path.name.encode()).hexdigest()[:16]}.parquet")
        )
    assert Store(full.root, "demo").read(IDS[0]) == a_record(IDS[0], "error", 4)
    monkeypatch.undo()
    other = Store(full.root, "demo")
    (path,) = other.compact()
    assert other.ids() == EXPECTED | {IDS[0]: "error"}
    assert other.read(IDS[0]) == a_record(IDS[0], "error", 4)
    assert len(pq.read_table(path)) == 3


def test_large_compactions_are_cut_into_parts(full, monkeypatch):
    monkeypatch.setattr(compaction, "PART_RECORDS", 2)
    assert sorted(len(pq.read_table(path)) for path in full.compact()) == [1, 2]
    assert full.ids() == EXPECTED


def test_row_groups_bound_what_is_held_in_memory(full, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_RECORDS", 2)
    (path,) = full.compact()
    assert pq.ParquetFile(path).num_row_groups == 2
    assert [full.read(i) for i in IDS] == [a_record(i, status) for i, status in EXPECTED.items()]
    assert [r["id"] for r in full.each(lambda i: i != IDS[1])] == [IDS[0], IDS[2]]


def test_small_parts_are_merged_and_large_ones_left_alone():
    def part(records: int) -> Part:
        return Part(Path(str(records)), (0, 0, 0), pa.table({"id": [""] * records}), [])

    def sizes(*records: int) -> list[int]:
        return [len(p) for p in mergeable([part(n) for n in records])]

    assert sizes(1) == []
    assert sizes(1, 1, 1) == [1, 1, 1]
    assert sizes(100, 1) == []
    assert sizes(100, 20, 5) == [5, 20, 100]
    assert sizes(19_999, 5000) == [5000, 19_999]
    assert sizes(20_000, 19_000) == []


def test_many_small_compactions_leave_few_parts(tmp_path):
    store = Store(tmp_path, "demo")
    for n in range(60):
        store.write(a_record(f"{n:016x}"))
        store.compact()
    assert len(store.ids()) == 60
    assert len(store.parts.all()) <= 4


class Crash(BaseException):
    """The process dies here."""


OPERATIONS = [(os, name) for name in ("fsync", "replace", "rename", "unlink")]


@pytest.mark.parametrize("after", range(24))
def test_crash_while_compacting(full, monkeypatch, after):
    """At every operation on files in turn."""
    full.compact()
    full.write(a_record(IDS[0], "error"), replace=True)
    full.write(a_record("d" * 16))
    before, calls = full.records(), []

    def crashing(real):
        def operation(*args, **options):
            if len(calls) >= after:
                raise Crash
            calls.append(args)
            return real(*args, **options)

        return operation

    for place, name in OPERATIONS:
        monkeypatch.setattr(place, name, crashing(getattr(place, name)))
    crashed = False
    try:
        full.compact()
    except Crash:
        crashed = True
    monkeypatch.undo()
    assert crashed or after > 8
    for _ in range(2):
        again = Store(full.root, "demo")
        assert again.records() == before
        assert again.ids() == {record["id"]: record["status"] for record in before}
        assert again.set_aside == []
        again.compact()
    assert again.records() == before
    assert again.repeated() == []
    assert not list(again.loose.folder.glob("*.json"))
    assert not list(again.loose.folder.glob("taken/*"))


def test_a_record_written_while_compacting_is_kept(full, monkeypatch):
    """Both a new cell and a newer record of an old one, in between the new part and the end of its files."""
    real = compaction.write_part

    def write(folder, content):
        path = real(folder, content)
        monkeypatch.undo()
        full.write(a_record(IDS[0], "error"), replace=True)
        full.write(a_record("d" * 16))
        return path

    monkeypatch.setattr(compaction, "write_part", write)
    full.compact()
    expected = EXPECTED | {IDS[0]: "error", "d" * 16: "ok"}
    assert full.ids() == expected
    full.compact()
    assert full.ids() == expected


def test_a_record_replaced_as_its_file_is_taken_is_put_back(full, monkeypatch):
    real = os.rename

    def rename(source, target):
        if target.name.endswith(".taken") and target.name.startswith(IDS[0]):
            monkeypatch.undo()
            full.write(a_record(IDS[0], "ok", 2.0), replace=True)
        return real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    full.compact()
    assert full.read(IDS[0]) == a_record(IDS[0], "ok", 2.0)
    assert everything(full.loose.folder) == [f"{IDS[0]}.json"]


def test_a_leftover_of_a_crash_is_a_record_until_it_is_compacted(full):
    path = full.loose.path(IDS[0])
    taken_aside(path)
    assert full.ids() == EXPECTED
    assert full.read(IDS[0]) == a_record(IDS[0])
    full.write(a_record(IDS[0], value=2.0), replace=True)  # what is in its place goes before it
    assert full.read(IDS[0]) == a_record(IDS[0], value=2.0)
    full.compact()
    assert full.read(IDS[0]) == a_record(IDS[0], value=2.0)
    assert full.repeated() == [(IDS[0], False)]  # two ok records: no one is dropped in silence
    assert everything(full.loose.folder) == []


def test_files_of_other_names_are_no_records(full):
    stray = full.loose.folder / f"{IDS[0]}.x.json"
    stray.write_bytes(text_of(a_record(IDS[0], "error")))
    assert full.ids() == EXPECTED
    full.compact()
    assert full.ids() == EXPECTED
    assert full.repeated() == []
    assert everything(full.loose.folder) == [stray.name]
    assert any(f"{stray} is none of the store's files" in note for note in verify(full).notes)


def test_another_compaction_in_between_loses_nothing(full, monkeypatch):
    real = compaction.write_part

    def meanwhile(folder, content):
        monkeypatch.undo()
        other = Store(full.root, "demo")
        other.write(a_record("d" * 16))
        other.compact()
        return real(folder, content)

    monkeypatch.setattr(compaction, "write_part", meanwhile)
    full.compact()
    assert set(full.ids()) == {*IDS, "d" * 16}
    assert full.repeated() == []


def test_readers_follow_when_parts_are_merged_under_them(full):
    full.compact()
    reader = Store(full.root, "demo")
    assert reader.ids() == EXPECTED
    full.write(a_record("d" * 16))
    full.compact()
    assert len(reader.records()) == 4
    shown = reader.each()
    next(shown)
    full.write(a_record("e" * 16))
    full.compact()  # removes the part that the reader is in the middle of
    assert len({record["id"] for record in shown}) >= 3


def test_full_disk_while_compacting(full, monkeypatch):
    before = full.records()
    monkeypatch.setattr(os, "fsync", fails_with(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"cannot write .*records\.parquet: No space left"):
        full.compact()
    monkeypatch.undo()
    assert full.records() == before
    assert everything(full.folder) == [f"records/{i}.json" for i in IDS]


def test_the_one_part_of_before_is_a_part_like_any(full, tmp_path):
    """`records.parquet` without the column written, and with texts without line breaks."""
    old = Store(tmp_path / "old", "demo")
    records = full.records()
    texts = [json.dumps(record, sort_keys=True) for record in records]
    columns = [IDS, list(EXPECTED.values()), texts]
    old.folder.mkdir(parents=True)
    pq.write_table(
        pa.table([pa.array(column, pa.string()) for column in columns], names=["id", "status", "json"]),
        old.folder / "records.parquet",
    )
    assert old.records() == records
    assert old.ids() == EXPECTED
    assert old.compact() == [old.folder / "records.parquet"]
    old.write(a_record(IDS[1]))
    assert old.ids() == EXPECTED | {IDS[1]: "ok"}
    (path,) = old.compact()
    assert everything(old.folder) == [path.name]
    assert path.name != "records.parquet"
    assert old.ids() == EXPECTED | {IDS[1]: "ok"}


@pytest.mark.parametrize("study", ["accuracy_vs_steps", "peers"])
def test_the_committed_records_are_read(study):
    store = Store(REFERENCE, study)
    ids = store.ids()
    assert len(ids) == len(store.records()) > 50
    assert store.set_aside == []
    assert ids == {record["id"]: record["status"] for record in store.records()}


def other_table(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "damage", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: b"x" * len(c), other_table]
)
def test_damaged_parquet_is_set_aside(full, damage):
    (path,) = full.compact()
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    full.write(a_record("d" * 16))
    assert [r["id"] for r in full.records()] == ["d" * 16]
    assert full.ids() == {"d" * 16: "ok"}
    (line,) = full.set_aside
    assert "is not a readable Parquet file of records" in line
    assert "the cells in it will be run again" in line
    (kept,) = (full.folder / "set_aside").iterdir()
    assert str(kept) in line
    assert kept.read_bytes() == damaged
    full.compact()
    assert full.ids() == {"d" * 16: "ok"}


def test_what_is_sound_of_a_damaged_part_is_saved(full, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_RECORDS", 1)
    (path,) = full.compact()
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(3)
    content[column.data_page_offset + column.total_compressed_size - 10] ^= 0xFF
    path.write_bytes(content)
    assert full.ids() == EXPECTED  # they look at other columns
    assert [r["id"] for r in full.records()] == [IDS[0], IDS[2]]
    (line,) = full.set_aside
    (saved,) = part_paths(full.folder)
    assert f"what can be read of it is now in {saved}" in line
    assert full.ids() == {i: EXPECTED[i] for i in (IDS[0], IDS[2])}


def test_a_damaged_part_in_a_folder_that_cannot_be_written(full, monkeypatch):
    (path,) = full.compact()
    full.write(a_record("d" * 16))
    path.write_bytes(b"x")
    monkeypatch.setattr(os, "replace", fails_with(errno.EROFS))
    for _ in range(2):
        assert full.ids() == {"d" * 16: "ok"}
    (line,) = full.set_aside
    assert "stays where it is (Read-only file system)" in line


def test_a_record_of_a_newer_version_in_a_part_is_told_and_kept(full):
    (path,) = full.compact()
    table = pq.read_table(path)
    texts = [
        text.replace('"schema": 1', '"schema": 2') if i == IDS[0] else text
        for i, text in zip(table.column("id").to_pylist(), table.column("json").to_pylist(), strict=True)
    ]
    newer = table.set_column(3, "json", pa.array(texts, pa.string()))
    path.unlink()
    path = parquet.write_part(full.folder, [newer])
    assert full.ids() == EXPECTED
    with pytest.raises(UsageError, match="has schema 2"):
        full.records()
    assert full.set_aside == []
    assert part_paths(full.folder) == [path]


@pytest.fixture
def halved(full, monkeypatch) -> Path:
    """The part of three row groups of one record each; the footer is sound, the second group is not."""
    monkeypatch.setattr(parquet, "GROUP_RECORDS", 1)
    (path,) = full.compact()
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(1)
    for column in (group.column(0), group.column(3)):
        content[column.data_page_offset + column.total_compressed_size - 10] ^= 0xFF
    path.write_bytes(content)
    return path


SOUND = {i: EXPECTED[i] for i in (IDS[0], IDS[2])}


def test_the_first_look_at_a_damaged_part_finds_what_is_saved_of_it(full, halved):
    for look in (
        lambda store: store.ids(),
        lambda store: {i: store.parts.find(i)[0] for i in IDS if store.parts.find(i)[0]},
        lambda store: {record["id"]: record["status"] for record in store.each()},
    ):
        copy = Store(shutil.copytree(full.root, full.root.with_name(f"{id(look)}")), "demo")
        assert look(copy) == SOUND
        assert len(copy.set_aside) == 1


def test_parts_that_are_merged_while_they_are_listed_are_found(full, monkeypatch):
    full.compact()
    full.write(a_record("d" * 16))
    real = parts.tables

    def tables(path, *arguments):
        monkeypatch.undo()
        Store(full.root, "demo").compact()
        return real(path, *arguments)

    monkeypatch.setattr(parts, "tables", tables)
    assert len(Store(full.root, "demo").parts.index()) == 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_damaged_part_of_which_nothing_can_be_saved_stays_and_is_read(full, halved, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fails_with(code))
    for _ in range(2):
        assert full.ids() == SOUND
        assert [record["id"] for record in full.records()] == list(SOUND)
    (line,) = full.set_aside
    assert f"what can be read of it is read; it stays where it is ({os.strerror(code)})" in line
    assert everything(full.folder) == [halved.name]
    assert verify(Store(full.root, "demo"), repair=True).left == [halved]
    monkeypatch.undo()
    other = Store(full.root, "demo")
    assert other.ids() == SOUND
    assert (other.folder / "set_aside").is_dir()


def test_compaction_leaves_a_damaged_part_that_stays(full, halved):
    store = Store(full.root, "demo", moves=False)
    store.write(a_record("d" * 16))
    store.compact()
    store.write(a_record("e" * 16))
    store.compact()
    assert halved.exists()
    assert set(store.ids()) == {*SOUND, "d" * 16, "e" * 16}


def test_a_part_that_is_written_anew_as_it_is_put_aside_stays(full, halved, monkeypatch):
    sound = Store(full.root.with_name("sound"), "demo")
    for i, status in EXPECTED.items():
        sound.write(a_record(i, status))
    (good,) = sound.compact()
    real = os.rename

    def rename(source, target):
        if source == halved:
            monkeypatch.undo()
            os.replace(good, halved)
        return real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert full.ids() == EXPECTED
    assert full.set_aside == []


def test_the_only_record_may_be_in_a_writers_hand_while_it_is_compacted(tmp_path, monkeypatch):
    store = Store(tmp_path, "demo")
    path = store.write(a_record(status="error"))
    real = compaction.write_part

    def write(folder, content):
        aside = taken_aside(path)
        try:
            return real(folder, content)
        finally:
            aside.rename(path)

    monkeypatch.setattr(compaction, "write_part", write)
    assert store.compact() == []
    monkeypatch.undo()
    assert len(store.compact()) == 1


def test_a_leftover_counts_for_who_writes_next_as_it_does_for_readers(tmp_path):
    """A failed record has replaced an ok one, which lies in a part; its next writer died with it in hand."""
    store = Store(tmp_path, "demo")
    store.write(a_record(value=1.0))
    store.compact()
    taken_aside(store.write(a_record(status="error", value=2.0), replace=True))
    newest = a_record(status="error", value=3.0)
    assert store.write(newest).parent == store.loose.folder
    for _ in range(2):
        (record,) = Store(tmp_path, "demo").each()
        assert record == newest
        store.compact()
    assert store.repeated() == []


@pytest.mark.parametrize("weigh", [False, True])
def test_an_ok_record_that_was_taken_aside_keeps_its_cell(tmp_path, weigh):
    store = Store(tmp_path, "demo")
    ok, worse = a_record(value=1.0), a_record(status="error", value=2.0)
    taken_aside(store.write(ok))
    assert store.put(ok["id"], text_of(worse), weigh=weigh).parent == store.folder / "repeated"
    store.compact()
    assert list(store.each()) == [ok]
    assert store.repeated() == [(ok["id"], False)]


def test_what_makes_way_for_a_better_record_is_kept_where_it_was_taken_aside(tmp_path):
    store = Store(tmp_path, "demo")
    taken_aside(store.write(a_record(status="killed", value=1.0)))
    better = a_record(status="error", value=2.0)
    store.put(better["id"], text_of(better), weigh=True)
    store.compact()
    assert list(store.each()) == [better]
    assert store.repeated() == [(better["id"], False)]


def test_what_a_record_replaced_stays_replaced_where_a_compaction_dies_before_it_is_gone(tmp_path):
    """The older record was taken aside by a writer that died, and its file is dated after the newer one's."""
    store = Store(tmp_path, "demo")
    older, newer = a_record(status="error", value=1.0), a_record(status="error", value=2.0)
    path = store.write(older)
    aside = taken_aside(path)
    store.write(newer)
    os.utime(aside, ns=(path.stat().st_mtime_ns + 10, path.stat().st_mtime_ns + 10))
    content, stat = aside.read_bytes(), aside.stat()
    store.compact()
    aside.write_bytes(content)
    os.utime(aside, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    (record,) = Store(tmp_path, "demo").each()
    assert record == newer
