"""`metabench verify`, `merge` and `gc`: what they find, what they do about it, and their exit codes."""

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.record import Store, differences, parquet
from bench.record import merge as merging
from bench.record import store as store_module
from bench.record.form import text_of
from bench.record.parquet import part_paths, write_part
from slurm.claims import lay
from tests.command_line import TINY, metabench
from tests.fake_slurm import install_clients, submitted
from tests.toy_plugins import toy_cell
from tests.toy_records import everything, fails_with, taken_aside, true_record

DAY_S = 86400.0
REFERENCE = Path(__file__).parent.parent / "results" / "reference"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Four compacted records and four loose ones of the study demo, below the current folder."""
    with contextlib.chdir(tmp_path):
        store = Store("results", "demo")
        for seed in range(8):
            store.write(true_record(seed))
            if seed == 3:
                store.compact()
        yield store


def identity(seed: int) -> str:
    return true_record(seed)["id"]


def verified(*more: str) -> tuple[int, dict]:
    result = metabench("verify", "demo", "--json", *more)
    return result.code, result.json()


def test_a_sound_store(store):
    code, found = verified()
    assert (code, found.pop("cells")) == (0, 8)
    assert found == {key: [] for key in ("damaged", "run_again", "notes", "repaired", "left", "train_again")}
    assert "demo: 8 cells with a sound record; sound" in metabench("verify", "demo").out


@pytest.mark.parametrize("study", ["accuracy_vs_steps", "peers"])
def test_the_committed_records_are_sound(study):
    assert metabench("verify", study, "--results", REFERENCE).code == 0


def test_no_records(store):
    shutil.rmtree("results/demo")
    assert metabench("verify", "demo").code == 3


WRONG = {
    "empty": (lambda text: "", "is empty"),
    "cut off": (lambda text: text[:-20], "is not valid JSON"),
    "foreign": (lambda text: "Dear diary", "is not valid JSON"),
    "of another form": (
        lambda text: text.replace('"accuracy": {', '"accuracy": 1, "_": {'),
        "is wrong at accuracy",
    ),
    "of no schema": (lambda text: text.replace('"schema": 1', '"schema": null'), "has schema None"),
    "of another cell": (lambda text: text.replace('"seed": 5', '"seed": 6'), "describes the cell"),
    "no text": (lambda text: "\udcff", "is not valid JSON"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_loose_record_that_is_damaged(store, kind):
    damage, why = WRONG[kind]
    path = store.loose.path(identity(5))
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    before = everything(store.folder)
    code, found = verified()
    assert code == 1
    assert everything(store.folder) == before  # nothing is touched
    ((file, text),) = [(d["file"], d["why"]) for d in found["damaged"]]
    assert (file, found["run_again"]) == (str(path), [identity(5)])
    assert why in text
    assert why in metabench("verify", "demo").out
    repaired = metabench("verify", "demo", "--repair")
    assert repaired.code == 0
    assert "moved to results/demo/set_aside" in repaired.out
    assert f"  {identity(5)}" in repaired.out
    code, found = verified()
    assert (code, found["cells"], found["damaged"]) == (0, 7, [])
    assert found["notes"] == ["1 damaged file in results/demo/set_aside"]
    store.write(true_record(5))  # run again
    assert verified()[1]["cells"] == 8


def test_a_damaged_record_whose_cell_has_another_is_not_run_again(store):
    store.write(true_record(2, value=2.0), replace=True).write_text("{")
    code, found = verified("--repair")
    assert (code, found["run_again"], found["cells"]) == (0, [], 8)
    assert store.read(identity(2)) == true_record(2)


@pytest.mark.parametrize("lost", [True, False])
def test_repair_says_run_only_where_something_is_to_be_run(store, lost):
    path = store.loose.path(identity(5)) if lost else store.write(true_record(1, value=3.0))
    path.write_text("{")
    assert "next: metabench verify demo --repair" in metabench("verify", "demo").out
    said = metabench("verify", "demo", "--repair").out
    assert ("next: metabench run demo" in said) == lost
    assert "1 damaged file set aside" in said
    assert "next:" not in metabench("verify", "demo").out


def rewritten(path: Path, change) -> Path:
    """A part with other rows in the place of ``path``."""
    table = pq.read_table(path)
    path.unlink()
    made = write_part(path.parent, [change(table)])
    assert made is not None
    return made


def test_a_record_in_a_part_that_is_damaged(store):
    (path,) = part_paths(store.folder)

    def change(table: pa.Table) -> pa.Table:
        texts = table.column("json").to_pylist()
        texts[1] = texts[1].replace('"accuracy": {', '"accuracy": 1, "_": {')
        return table.set_column(3, "json", pa.array(texts, pa.string()))

    path = rewritten(path, change)
    bad = pq.read_table(path).column("id")[1].as_py()
    code, found = verified()
    assert (code, found["cells"], found["run_again"]) == (1, 7, [bad])
    assert f"holds a record of {bad} that is wrong at accuracy" in found["damaged"][0]["why"]
    code, found = verified("--repair")
    assert (code, found["run_again"]) == (0, [bad])
    assert verified()[0] == 0
    assert set(store.ids()) == {identity(seed) for seed in range(8)} - {bad}


def test_a_status_that_is_not_that_of_the_record(store):
    (path,) = part_paths(store.folder)
    rewritten(path, lambda table: table.set_column(1, "status", pa.array(["ok", "ok", "error", "ok"])))
    code, found = verified("--repair")
    assert (code, len(found["run_again"])) == (0, 1)
    assert "is ok, and the column of the part says error" in found["damaged"][0]["why"]


def flipped(path: Path) -> Path:
    """The part with a bit flipped in its second row group."""
    group = pq.ParquetFile(path).metadata.row_group(1).column(3)
    content = bytearray(path.read_bytes())
    content[group.data_page_offset + group.total_compressed_size - 5] ^= 0x10
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("where", ["header", "page", "footer"])
def test_a_part_with_a_flipped_bit(store, monkeypatch, where):
    store.compact()
    (path,) = part_paths(store.folder)
    monkeypatch.setattr(parquet, "GROUP_RECORDS", 3)
    path = rewritten(path, lambda table: table)
    group = pq.ParquetFile(path).metadata.row_group(1).column(3)
    page = group.data_page_offset + group.total_compressed_size
    content = bytearray(path.read_bytes())
    content[{"header": 2, "page": page - 5, "footer": len(content) - 12}[where]] ^= 0x10
    path.write_bytes(content)
    code, found = verified()
    assert (code, len(found["damaged"])) == (1, 1)
    assert metabench("verify", "demo", "--repair").code == 0
    code, found = verified()
    expected = {"header": 8, "page": 5, "footer": 0}[where]
    assert (code, found["damaged"]) == (0 if expected else 3, [])
    assert found["cells"] == len(store.ids()) == len(store.records()) == expected


def test_what_does_no_harm_is_noted(store):
    taken_aside(store.loose.path(identity(7)))
    (store.loose.folder / "notes.txt").write_text("mine")
    store.write(true_record(1, value=3.0))
    code, found = verified()
    assert (code, found["cells"]) == (0, 8)
    assert any("a compaction that was killed" in note for note in found["notes"])
    assert any("notes.txt is none of the store's" in note for note in found["notes"])
    assert any("1 records of cells that have one" in note for note in found["notes"])


def test_a_damaged_repeated_record(store):
    path = store.write(true_record(1, value=3.0))
    path.write_text("{")
    code, found = verified()
    assert (code, found["run_again"]) == (1, [])
    assert verified("--repair")[0] == 0
    assert (verified()[0], store.repeated()) == (0, [])


def test_repairs_of_a_folder_that_cannot_be_written(store, monkeypatch):
    store.loose.path(identity(5)).write_text("{")
    (path,) = part_paths(store.folder)
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)
    repeated = store.write(true_record(6, value=2.0))
    repeated.write_text("{")
    before = everything(store.folder)
    monkeypatch.setattr(os, "replace", fails_with(errno.EROFS))
    code, found = verified("--repair")
    assert (code, len(found["left"])) == (1, 3)
    assert [
        line for line in found["repaired"] if "stays where it is (Read-only file system)" not in line
    ] == []
    assert [line for line in found["repaired"] if str(repeated) in line and "run again" in line] == []
    result = metabench("verify", "demo", "--repair")
    assert "nothing was moved" in result.out
    assert set(everything(store.folder)) == set(before)
    monkeypatch.undo()
    assert verified("--repair")[0] == 0


def test_a_folder_and_a_circle_of_links_among_records(store):
    (store.folder / "repeated").mkdir()
    for folder in (store.loose.folder, store.folder / "repeated"):
        (folder / "taken" / f"{'b' * 16}.{'0' * 32}.taken").mkdir(parents=True)
        link = folder / f"{'c' * 16}{'.0' if folder != store.loose.folder else ''}.json"
        link.symlink_to(link.name)
    code, found = verified()
    assert (code, found["cells"], len(found["damaged"])) == (1, 8, 4)
    assert verified("--repair")[0] == 0
    assert (verified()[0], verified()[1]["damaged"]) == (0, [])


def test_verify_does_not_move_what_was_written_as_it_looked(store, monkeypatch):
    path = store.loose.path(identity(5))
    path.write_text("{")
    real = os.rename

    def rename(source, target):
        monkeypatch.undo()
        Store(store.root, "demo", moves=False).write(true_record(5), replace=True)
        return real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    code, found = verified("--repair")
    assert (code, found["cells"], found["damaged"], found["repaired"]) == (0, 8, [], [])
    assert store.read(identity(5)) == true_record(5)


def test_verify_of_what_a_newer_version_wrote(store):
    path = store.loose.path(identity(5))
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    before = everything(store.folder)
    for verb in (
        ["verify", "demo"],
        ["verify", "demo", "--repair"],
        ["merge", "results", "--results", "new"],
    ):
        result = metabench(*verb)
        assert result.code == 2
        assert "a newer version wrote it" in result.err
    assert everything(store.folder) == before


@pytest.fixture
def other(store) -> Store:
    """The same study from another cluster: cells 6 to 9; one of the common two with another result."""
    other = Store("elsewhere", "demo")
    for seed in range(6, 10):
        other.write(true_record(seed, value=1.0 + (seed == 7)) | {"seconds": 3.0})
    return other


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("folder", ["elsewhere", "elsewhere/demo"])
def test_merge(store, other, compacted, folder):
    if compacted:
        other.compact()
    before = everything(Path("elsewhere"))
    result = metabench("merge", folder)
    assert result.code == 1
    said = "demo: 2 new, 0 the same, 2 of cells with another record (1 of them with other results), from"
    assert said in result.out
    assert result.out.splitlines()[0].endswith("elsewhere/demo into results/demo")
    assert f"{identity(7)} has other results: accuracy.x" in result.out
    assert everything(Path("elsewhere")) == before
    assert set(store.ids()) == {identity(seed) for seed in range(10)}
    assert store.read(identity(7)) == true_record(7)  # the first stays
    assert store.read(identity(9)) == other.read(identity(9))
    assert sorted(store.repeated()) == sorted([(identity(6), True), (identity(7), False)])
    for _ in range(2):  # killed and called again, or called twice: no more than that
        after = everything(Path("results"))
        assert metabench("merge", folder, "--into", "results").code == 1
        assert everything(Path("results")) == after


def test_merge_leaves_damaged_files_of_its_source_where_they_are(store, other, monkeypatch):
    other.compact()
    other.write(true_record(11))
    (path,) = part_paths(other.folder)
    monkeypatch.setattr(parquet, "GROUP_RECORDS", 2)
    path = flipped(rewritten(path, lambda table: table))
    other.loose.path(identity(10)).write_text("{")
    (other.folder / "repeated").mkdir()
    (other.folder / "repeated" / f"{identity(6)}.aaaa.json").mkdir()
    before = everything(Path("elsewhere"))
    result = metabench("merge", "elsewhere", "--results", "new")
    assert "demo: 3 new, " in result.out  # of the part's two row groups one, and the loose one
    assert "what can be read of it is read" in result.err
    assert "is not valid JSON" in result.err
    assert everything(Path("elsewhere")) == before


def test_merge_into_nothing_is_a_copy(store):
    metabench("merge", "results", "--results", "new")
    assert Store("new", "demo").records() == store.records()
    assert metabench("merge", "results", "--results", "new", "--json").json()[0]["same"] == 8
    assert metabench("merge", "new", "--results", "results").code == 0
    assert store.repeated() == []


def test_merge_brings_the_study_file_and_repeated_records(measured: Path):
    store = Store("results", "tiny")
    record = store.records()[0]
    store.write(record | {"seconds": 9.0})
    assert metabench("merge", "results", "--results", "new").code == 0
    assert metabench("status", "tiny", "--results", "new").code == 0
    assert Path("new/tiny/tiny.toml").read_bytes() == Path("results/tiny/tiny.toml").read_bytes()
    assert Store("new", "tiny").repeated() == [(record["id"], True)]


def test_merge_of_studies_whose_files_differ(measured: Path):
    """What the kept file does not ask for is said, kept, and shown with --unasked or by the other file."""
    other = Path("elsewhere/tiny.toml")
    other.parent.mkdir()
    other.write_text(TINY.replace("steps = [1, 2]", "steps = [2, 3]"))
    assert metabench("run", other, "--jobs", 0, "--results", "elsewhere").code == 0
    for new, same in ((2, 2), (0, 4)):  # and again
        result = metabench("merge", "elsewhere")
        assert result.code == 1
        assert f"tiny: {new} new, {same - 2} the same, 2 of cells with another record" in result.out
        assert "(all with the same results)" in result.out
        kept = "results/tiny/tiny.toml is kept, not "
        assert f"the study files differ: {kept}" in result.out
        assert "2 records belong to no cell of this study file" in result.out
        (command,) = re.findall(r"or: metabench (.*)", result.out)
        assert "tiny: 4 cells: 4 ok" in metabench(*shlex.split(command)).out
    status = metabench("status", "tiny")
    assert "tiny: 4 cells: 4 ok" in status.out
    assert "2 records belong to no cell of this study file" in status.out
    assert "2 cells with a second record, all with the same results" in status.out
    assert metabench("merge", "elsewhere", "--json").json()[0]["of_no_cell"] == 2
    # A question of another wording is no other study.
    Path("results/tiny/tiny.toml").write_text(other.read_text().replace("Does", "Does not"))
    result = metabench("merge", "elsewhere")
    assert (result.code, "the study files differ" in result.out) == (0, True)
    assert "no cell" not in result.out


def test_of_two_records_the_better_one_counts(store):
    other = Store("elsewhere", "demo")
    store.write(true_record(20, "error"))
    store.write(true_record(21, "killed"))
    store.write(true_record(22, "declined"))
    for seed, status in ((20, "ok"), (21, "not_converged"), (22, "out_of_memory"), (1, "error")):
        other.write(true_record(seed, status, 2.0))
    result = metabench("merge", "elsewhere", "--json")
    assert result.code == 1
    differ = dict(result.json()[0]["differ"])
    assert differ[identity(20)] == ["status", "accuracy.x"]
    states = {seed: store.ids()[identity(seed)] for seed in (1, 20, 21, 22)}
    assert states == {1: "ok", 20: "ok", 21: "not_converged", 22: "declined"}
    assert len(store.repeated()) == 4  # the other one of each


@pytest.mark.parametrize("source", ["nowhere", "empty", "results", "results/demo"])
def test_merge_of_nothing_or_of_itself(store, source):
    Path("empty").mkdir()
    before = everything(Path("results"))
    result = metabench("merge", source)
    assert result.code == 2
    assert source in result.err
    assert everything(Path("results")) == before


def test_differences_are_of_results_alone():
    one = true_record(1) | {"calls": {"inner_grads": 5}, "seconds": 1.0}
    one["accuracy"]["references"] = {"maml": {"relative_error": [0.1], "how": "x"}}
    other = json.loads(text_of(one)) | {"seconds": 2.0, "time": {"samples_s": [1.0]}}
    assert differences(one, other) == []
    other["calls"]["inner_grads"] = 6
    other["accuracy"]["references"]["maml"]["relative_error"] = [0.2]
    other["accuracy"]["meta_grad_sha256"] = "f"
    assert differences(one, other) == [
        "calls.inner_grads",
        "accuracy.meta_grad_sha256",
        "accuracy.references.maml.relative_error",
    ]


def test_status_says_what_ran_again(measured: Path):
    store = Store("results", "tiny")
    one, two, *_ = store.records()
    store.write(one | {"seconds": 9.0})
    assert "1 cell with a second record, all with the same results" in metabench("status", "tiny").out
    store.write(two | {"calls": {"inner_grads": 99}})
    result = metabench("status", "tiny")
    assert result.code == 0
    assert "2 cells with a second record, 1 of them with other results" in result.out
    assert f"  {two['id']}" in result.out
    assert {"id": one["id"], "agrees": True} in metabench("status", "tiny", "--json").json()["repeated"]


def aged(path: Path, days: float) -> Path:
    for below in [*path.rglob("*"), path]:
        os.utime(below, times=(time.time() - days * DAY_S,) * 2)
    return path


def test_gc(store):
    jobs = store.folder / "jobs"
    for name, days in (("old", 40), ("alive", 40)):
        (jobs / name / "claims").mkdir(parents=True)
        (jobs / name / "plan.parquet").write_bytes(b"x" * 1000)
        (jobs / name / "claims" / "1_0.json").write_text("{}")
        aged(jobs / name, days)
    os.utime(jobs / "alive" / "claims" / "1_0.json")
    (store.folder / "set_aside").mkdir()
    aged(store.folder / "set_aside", 1)
    (store.folder / "repeated").mkdir()  # young
    litter = store.loose.folder / f".x.json.host.1.{'a' * 32}.tmp"
    litter.write_bytes(b"x" * 500)
    foreign = store.loose.folder / ".swap.tmp"
    foreign.write_text("an editor's")
    for path in (litter, foreign):
        os.utime(path, (0, 0))
    Path("results/nothing").mkdir()
    aged(Path("results/nothing"), 1)

    before = everything(Path("results"))
    dry = metabench("gc", "--dry-run")
    assert (dry.code, everything(Path("results"))) == (0, before)
    for text in (
        f"{litter} (500 B): a write that was cut off",
        f"{jobs / 'old'} (1002 B): no sign of life for 40 days",
    ):
        assert text in dry.out
    assert "4 to remove, 1.5 KiB" in dry.out
    result = metabench("gc")
    assert (result.code, result.out.splitlines()[-1]) == (0, "4 removed, 1.5 KiB")
    gone = set(before) - set(everything(Path("results")))
    assert {path.split("/")[-1] for path in gone} == {litter.name, "plan.parquet", "1_0.json"}
    assert [p.name for p in sorted(store.folder.iterdir()) if p.is_dir()] == ["jobs", "records", "repeated"]
    assert (jobs / "alive").exists()
    assert not Path("results/nothing").exists()
    assert len(store.ids()) == 8
    assert metabench("gc").out.splitlines() == ["0 removed, 0 B"]
    assert metabench("gc", "--days", "0").code == 0
    assert metabench("gc", "--results", "nowhere").code == 2


@pytest.fixture
def waiting(store, monkeypatch) -> Path:
    """The folder of a submission whose job has been in the queue for 40 days; clients that say PENDING."""
    submission = submitted(store, [toy_cell(0)])
    submission.add_jobs({0: "5"})
    lay(submission, submission.jobs())
    aged(submission.folder, 40)
    install_clients(Path("bin"), "PENDING")
    monkeypatch.setenv("PATH", f"{Path('bin').absolute()}:/usr/bin:/bin")
    return submission.folder


@pytest.mark.parametrize("claimed", [True, False])
def test_gc_keeps_the_folders_of_jobs_that_slurm_lists(waiting, claimed):
    if not claimed:  # claims are advice, and may be deleted
        (waiting / "claims" / "5.json").unlink()
        aged(waiting, 40)
    for more in ([], ["--days", "0"]):
        said = metabench("gc", *more)
        assert (said.code, waiting.exists()) == (0, True)
        assert f"{waiting.relative_to(Path.cwd())} is kept: Slurm lists its jobs" in said.out
    shutil.rmtree("bin")
    install_clients(Path("bin"), "CANCELLED")
    assert "1 removed" in metabench("gc").out
    assert not waiting.exists()


def test_gc_without_an_answer_of_slurm_keeps_young_claims(waiting, monkeypatch):
    shutil.rmtree("bin")
    monkeypatch.setenv("PATH", str(Path("bin").absolute()))
    os.utime(waiting / "claims" / "5.json", times=(time.time() - 10 * DAY_S,) * 2)
    said = metabench("gc", "--days", "1")
    assert waiting.exists()
    assert "is kept: its claims are younger than 30 days" in said.out
    assert "there is no Slurm on this machine" in said.out
    aged(waiting, 40)
    metabench("gc", "--days", "1")
    assert not waiting.exists()


def other_store(name: str, seeds: range, status: str = "ok", value: float = 1.0) -> Store:
    """A compacted store of the study demo in another folder."""
    store = Store(name, "demo")
    for seed in seeds:
        store.write(true_record(seed, status, value))
    store.compact()
    return store


def values(store: Store) -> dict[str, set[float]]:
    """Of every cell the values of all its records; that of the one that counts is negative."""
    found = {record["id"]: {-record["accuracy"]["x"][0]} for record in store.each()}
    for path in (store.folder / "repeated").glob("*.json"):
        record = json.loads(path.read_text())
        found[record["id"]].add(record["accuracy"]["x"][0])
    return found


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("statuses", [("ok", "ok"), ("ok", "error"), ("error", "ok")])
def test_two_merges_at_once(tmp_path, monkeypatch, statuses, compacted):
    """The second begins and ends between the first's look at the target and its part."""
    monkeypatch.chdir(tmp_path)
    one = other_store("s1", range(4), statuses[0], 1.0)
    two = other_store("s2", range(4), statuses[1], 2.0)
    target, real, told = Store("new", "demo"), merging.write_part, []

    def write(folder, content):
        monkeypatch.setattr(merging, "write_part", real)
        told.append(merging.merge(two, Store("new", "demo")))
        path = real(folder, content)
        if compacted:
            Store("new", "demo").compact()
        return path

    monkeypatch.setattr(merging, "write_part", write)
    told.append(merging.merge(one, target))
    assert (told[0].new, told[0].repeated) == (4, 0)
    if not compacted:
        assert (told[1].new, told[1].same, told[1].repeated, len(told[1].differ)) == (0, 0, 4, 4)
    for _ in range(3):
        found = values(Store("new", "demo"))
        assert all({abs(v) for v in each} == {1.0, 2.0} and len(each) == 2 for each in found.values())
        assert (len(found), set(target.ids().values())) == (4, {"ok"})
        for store in (one, two):
            assert merging.merge(store, Store("new", "demo")).new == 0
        assert values(Store("new", "demo")) == found
        target.compact()


@pytest.mark.parametrize("late", ["before the part", "after the part"])
@pytest.mark.parametrize("status", ["error", "ok"])
def test_merge_beside_a_writer(tmp_path, monkeypatch, late, status):
    """A worker ends a cell that it began before the merge."""
    monkeypatch.chdir(tmp_path)
    source, target, real = other_store("s", range(4)), Store("new", "demo"), merging.write_part

    def write(folder, content):
        monkeypatch.setattr(merging, "write_part", real)
        path = real(folder, content) if late == "after the part" else None
        Store("new", "demo").put(identity(1), text_of(true_record(1, status, 2.0)), replace=True)
        return path or real(folder, content)

    monkeypatch.setattr(merging, "write_part", write)
    merged = merging.merge(source, target)
    assert (merged.new, merged.repeated, len(merged.differ)) == (3, 1, 1)
    for _ in range(2):
        found = values(target)
        assert found[identity(1)] == ({-1.0, 2.0} if status == "error" else {-2.0, 1.0})
        assert set(target.ids().values()) == {"ok"}
        target.compact()


def test_a_writer_that_is_late_for_a_record_that_was_merged_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target, real = other_store("s", range(4)), Store("new", "demo"), store_module.create

    def create(*arguments):
        monkeypatch.setattr(store_module, "create", real)
        merging.merge(source, Store("new", "demo"))
        return real(*arguments)

    monkeypatch.setattr(store_module, "create", create)
    target.write(true_record(1, "error", 2.0))
    assert values(target)[identity(1)] == {-1.0, 2.0}
    assert target.read(identity(1)) == true_record(1)


def test_an_ok_record_that_was_merged_in_outlives_a_writer_that_died(tmp_path, monkeypatch):
    """The failed record lies in its place, and nobody looks again but the compaction."""
    monkeypatch.chdir(tmp_path)
    target = Store("new", "demo")
    merging.merge(other_store("s", range(4)), target)
    target.put(identity(1), text_of(true_record(1, "error", 2.0)), replace=True)
    target.compact()
    assert values(target)[identity(1)] == {-2.0, 1.0}


def test_a_better_record_that_comes_as_another_is_merged_in_stays(store, monkeypatch):
    store.write(true_record(20, "error", 3.0))
    source = other_store("s", range(20, 21), "not_converged", 4.0)
    real = store_module.take

    def take(*arguments):
        monkeypatch.setattr(store_module, "take", real)
        Store("results", "demo").write(true_record(20, "ok", 5.0))
        return real(*arguments)

    monkeypatch.setattr(store_module, "take", take)
    merging.merge(source, store)
    assert values(store)[identity(20)] == {-5.0, 4.0, 3.0}
