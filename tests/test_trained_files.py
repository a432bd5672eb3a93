"""Files of trained meta-parameters: what the verbs on the store do with them, and cells that start there."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import arrays, inputs, spec, start
from bench.cells import Cell, cell_id, expand
from bench.desk import Desk
from bench.record import Store, trained
from bench.record.form import text_of
from bench.run import references, run_cell
from bench.worker import measure
from tests.command_line import metabench

STUDY = """
question = "Does it learn?"
seeds = 2
kind = "train"
outer = "sgd"
outer_steps = 4
evaluation_tasks = 5
validations = 2
validation_tasks = 3
n_tasks = 2
dtype = "float64"
problem = {name = "linear_regression", dim = 4, support = 5, query = 4}
inner = {name = "gradient_descent", steps = 2, learning_rate = 0.02}
method = "maml"
"""
FOLDER = Path("results/learn")
DAY_S = 86400.0


@pytest.fixture
def cells(tmp_path, monkeypatch) -> list[Cell]:
    """Two trainings that have ended well."""
    monkeypatch.chdir(tmp_path)
    Path("learn.toml").write_text(STUDY)
    assert metabench("run", "learn.toml", "--jobs", 0).code == 0
    return expand(spec.load("learn.toml"))


def file_of(cell: Cell, root: str = "results") -> Path:
    store = Store(root, "learn")
    path = trained.file_of(store.folder, store.read(cell.id) or {})
    assert path is not None
    return path


def verified(*more: str) -> tuple[int, dict]:
    result = metabench("verify", "learn", "--json", *more)
    return result.code, result.json()


def old(path: Path, days: float = 0.2) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_file_is_named_by_its_content_and_never_replaced(cells):
    first = file_of(cells[0])
    content = first.read_bytes()
    Store("results", "learn").compact()
    assert metabench("run", "learn.toml", "--jobs", 0, "--cell", cells[0].id, "--force").code == 0
    assert file_of(cells[0]) == first  # the same training, the same bits
    assert first.read_bytes() == content
    with np.load(first, allow_pickle=False) as found:
        assert {"stage.start", "stage.half", "stage.end"} <= set(found.files)
        assert all(found[name].dtype.kind in "fi" for name in found.files)
    assert verified() == (0, verified()[1])


def test_verify_finds_what_is_missing_or_damaged(cells):
    assert verified()[0] == 0
    one, other = map(file_of, cells)
    one.unlink()
    damage(other)
    code, found = verified()
    assert code == 1
    assert found["train_again"] == sorted(cell.id for cell in cells)
    assert {entry["file"] for entry in found["damaged"]} == {str(one), str(other)}
    assert found["run_again"] == []  # the records are sound
    said = metabench("verify", "learn").out
    assert f"{one} is not there: the meta-parameters of cell {cells[0].id}" in said
    assert f"{other} is not what it was" in said
    assert f"metabench run learn --cell {cells[0].id} --force" in said
    assert metabench("verify", "learn", "--repair").code == 1  # moved away, but not there
    assert not other.exists()
    assert len(list((FOLDER / "set_aside").iterdir())) == 1
    for cell in cells:
        assert metabench("run", "learn.toml", "--jobs", 0, "--cell", cell.id, "--force").code == 0
    assert verified()[0] == 0
    assert one.exists()
    assert other.exists()


def test_verify_of_compacted_records_and_of_checkpoints(cells):
    Store("results", "learn").compact()
    file_of(cells[1]).unlink()
    checkpoint = trained.checkpoint(FOLDER, "ab12")
    arrays.write(checkpoint, {"theta": np.zeros(3)})
    code, found = verified()
    assert (code, found["train_again"]) == (1, [cells[1].id])
    assert "1 checkpoints of trainings" in found["notes"]
    checkpoint.write_bytes(b"no arrays")
    code, found = verified()
    assert str(checkpoint) in {entry["file"] for entry in found["damaged"]}
    verified("--repair")
    assert not checkpoint.exists()


def test_a_record_names_files_of_its_own_folder_only(cells):
    record = Store("results", "learn").read(cells[0].id)
    assert record is not None
    record["train"]["file"]["name"] = "../../elsewhere.npz"
    with pytest.raises(ValueError, match=r"train\.file\.name"):
        text_of(record)


def test_merge_carries_trainings(cells):
    shutil.move("results", "elsewhere")
    checkpoint = trained.checkpoint(Path("elsewhere/learn"), "ab12")
    arrays.write(checkpoint, {"theta": np.zeros(3)})
    arrays.write(trained.checkpoint(Path("elsewhere/learn"), cells[0].id), {"theta": np.zeros(3)})
    merged = metabench("merge", "elsewhere", "--json").json()[0]
    assert (merged["new"], merged["trained"], merged["untrained"]) == (2, 3, [])
    for cell in cells:
        assert file_of(cell).read_bytes() == file_of(cell, "elsewhere").read_bytes()
    assert sorted(trained.checkpoints(FOLDER)) == ["ab12"]  # a finished cell needs none
    assert verified()[0] == 0
    again = metabench("merge", "elsewhere", "--json").json()[0]
    assert (again["same"], again["trained"]) == (2, 0)


def test_merge_replaces_damaged_files_by_sound_ones_and_says_what_is_lost(cells):
    shutil.copytree("results", "elsewhere")
    damage(file_of(cells[0]))
    damage(file_of(cells[1], "elsewhere"))
    merged = metabench("merge", "elsewhere", "--json").json()[0]
    assert (merged["trained"], merged["untrained"]) == (1, [])
    assert verified()[0] == 0
    file_of(cells[1]).unlink()
    result = metabench("merge", "elsewhere")
    assert result.code == 1
    assert f"{cells[1].id} comes without its trained meta-parameters" in result.out


def test_another_result_of_a_cell_keeps_its_file_too(cells):
    shutil.copytree("results", "elsewhere")
    store = Store("elsewhere", "learn")
    record = store.read(cells[0].id)
    assert record is not None
    content = arrays.read(file_of(cells[0], "elsewhere"))
    file = trained.keep(store.folder, cells[0].id, content | {"theta": content["theta"] + 1e-3})
    store.write(record | {"train": record["train"] | {"file": file}}, replace=True)
    merged = metabench("merge", "elsewhere")
    assert merged.code == 1
    assert f"{cells[0].id} has other results: train.file.name, train.file.sha256" in merged.out
    own = file_of(cells[0])
    assert own.exists()
    other = own.with_name(file["name"])
    old(other)
    assert "0 to remove" in metabench("gc", "--dry-run").out  # a repeated record names it
    shutil.rmtree(FOLDER / "repeated")
    assert f"{other} (" in metabench("gc").out
    assert not other.exists()
    assert own.exists()


def test_times_are_no_other_results(cells):
    shutil.copytree("results", "elsewhere")
    store = Store("elsewhere", "learn")
    record = store.read(cells[0].id)
    assert record is not None
    training = record["train"] | {"seconds_per_step": 9.0, "resumed_at": 3}
    store.write(record | {"train": training}, replace=True)
    merged = metabench("merge", "elsewhere", "--json").json()[0]
    assert (merged["repeated"], merged["differ"]) == (1, [])


def test_gc_of_checkpoints_and_of_files_without_a_record(cells):
    stray = trained.keep(FOLDER, "ab12", {"theta": np.zeros(3)})["name"]
    extra = trained.keep(FOLDER, cells[0].id, {"theta": np.zeros(3)})["name"]
    ended, going = (trained.checkpoint(FOLDER, i) for i in (cells[0].id, "cd34"))
    files = [FOLDER / "trained" / stray, FOLDER / "trained" / extra, ended, going]
    for path in (ended, going):
        arrays.write(path, {"theta": np.zeros(3)})
    assert "0 to remove" in metabench("gc", "--dry-run").out  # young: somebody may be at work
    for path in files:
        old(path)
    said = metabench("gc", "--dry-run").out
    assert f"{ended} (" in said
    assert "a checkpoint: its cell is finished" in said
    assert f"{files[1]} (" in said
    assert "2 to remove" in said
    assert "2 removed" in metabench("gc").out
    assert [path.exists() for path in files] == [True, False, False, True]
    assert all(file_of(cell).exists() for cell in cells)
    for path in (files[0], going):
        old(path, 40)
    assert "2 removed" in metabench("gc").out
    assert verified()[0] == 0


def test_a_finished_cell_leaves_no_checkpoint(cells, monkeypatch):
    monkeypatch.setattr("bench.course.CHECKPOINT_S", 0.0)
    store = Store("other", "learn")
    seen = []
    path = trained.checkpoint(store.folder, cells[0].id)
    record = measure(cells[0], store, run_cell, progress=lambda done, steps: seen.append(path.exists()))
    assert record["status"] == "ok"
    assert seen == [False, True, True, True]
    assert not path.exists()


# Cells that start from a training.

MEASURING = """
question = "And from there?"
n_tasks = 2
dtype = "float64"
passes = ["accuracy", "resident"]
problem = {name = "linear_regression", dim = 4, support = 5, query = 4}
inner = {name = "gradient_descent", steps = 2, learning_rate = 0.02}
method = "maml"
start = START
"""


def starting(text: str, at: object) -> list[Cell]:
    Path("measure.toml").write_text(text.replace("START", json.dumps(at).replace('": ', '" = ')))
    return expand(spec.load("measure.toml"))


def test_a_cell_starts_from_a_training(cells):
    stages = ["start", "half", "end"]
    (plain,) = starting(MEASURING.replace("start = START\n", ""), "")
    assert "start" not in plain.description
    starts = starting(MEASURING, {"cell": cells[1].id, "stage": stages})
    assert [cell.description["start"]["stage"] for cell in starts] == stages
    result = metabench("run", "measure.toml", "--jobs", 0)
    assert result.code == 0, result.err
    for cell, stage in zip(starts, stages, strict=True):
        theta = torch.from_numpy(trained.stage(file_of(cells[1]), stage))
        placed = start.located(cell.description, Path("results"))
        assert torch.equal(inputs.prepare(placed).meta, theta)
        assert torch.equal(inputs.exact(inputs.exact_key(placed)).meta, theta)
        record = Store("results", "measure").read(cell.id)
        assert record is not None
        assert record["cell"] == cell.description
        assert record["environment"]["start"] == placed["start"]["sha256"]
        assert max(record["accuracy"]["references"]["maml"]["relative_error"]) < 1e-12  # that reference too
        tasks = inputs.prepare(plain.description).tasks
        assert torch.equal(inputs.prepare(placed).tasks.support_x, tasks.support_x)  # the same tasks
    norms = [tuple(r["accuracy"]["meta_grad_norm"]) for r in Store("results", "measure").each()]
    assert len(set(norms)) == 3


def test_where_a_cell_starts_is_part_of_its_id(cells):
    (one,), (same,), (other,), (half,) = (
        starting(MEASURING, at)
        for at in (
            cells[0].id, {"cell": cells[0].id, "stage": "end"}, cells[1].id,
            {"cell": cells[0].id, "stage": "half"},
        )
    )  # fmt: skip
    assert one.id == same.id == cell_id(one.description)
    assert len({one.id, other.id, half.id}) == 3


def test_training_goes_on_from_a_training(cells):
    (cell,) = starting(STUDY.replace("seeds = 2", "start = START"), cells[0].id)
    record = run_cell(cell, "more", Desk(Path("results/more")))
    assert record["status"] == "ok", record["reason"]
    first = trained.stage(Path("results/more/trained") / record["train"]["file"]["name"], "start")
    assert np.array_equal(first, trained.stage(file_of(cells[0]), "end"))


def test_a_training_that_is_not_there_is_said_before_anything_runs(cells):
    starting(MEASURING, "0123456789abcdef")
    result = metabench("run", "measure.toml", "--jobs", 0)
    assert result.code == 2
    assert "the training 0123456789abcdef is not under results" in result.err
    assert not Path("results/measure").exists()
    arrays.write(trained.checkpoint(FOLDER, "0123456789abcdef"), {"theta": np.zeros(3)})
    said = metabench("run", "measure.toml", "--jobs", 0).err
    assert "is not finished; first: metabench run learn --cell 0123456789abcdef" in said
    (cell,) = expand(spec.load("measure.toml"))
    record = run_cell(cell, "measure", Desk(Path("results/measure")))
    assert (record["status"], "not finished" in record["reason"]["message"]) == ("declined", True)
    assert run_cell(cell, "measure")["status"] == "declined"


def test_a_training_whose_file_has_gone_is_said_with_what_makes_it_anew(cells):
    starting(MEASURING, cells[0].id)
    file_of(cells[0]).unlink()
    said = metabench("run", "measure.toml", "--jobs", 0).err
    assert f"is not there; first: metabench run learn --cell {cells[0].id} --force" in said


def test_a_start_of_another_network_is_refused(cells):
    (cell,) = starting(MEASURING.replace("dim = 4", "dim = 6"), cells[0].id)
    record = run_cell(cell, "measure", Desk(Path("results/measure")))
    assert record["status"] == "error"
    wanted = f"the training {cells[0].id} has 4 meta-parameters, and the problem of this cell 6"
    assert wanted in record["reason"]["message"]


def test_a_damaged_start_is_refused(cells):
    (cell,) = starting(MEASURING, cells[0].id)
    damage(file_of(cells[0]))
    record = run_cell(cell, "measure", Desk(Path("results/measure")))
    assert record["status"] == "error"
    assert "is not what it was" in record["reason"]["message"]


def test_two_trainings_with_other_results_are_refused(cells):
    shutil.copytree("results/learn", "results/copy")
    (cell,) = starting(MEASURING, cells[0].id)
    assert start.located(cell.description, Path("results"))["start"]["sha256"]  # the same twice does no harm
    store = Store("results", "copy")
    record = store.read(cells[0].id)
    assert record is not None
    file = trained.keep(store.folder, cells[0].id, {"theta": np.zeros(4)})
    store.write(record | {"train": record["train"] | {"file": file}}, replace=True)
    with pytest.raises(start.NotTrainedError, match="with other results; keep one of them"):
        start.located(cell.description, Path("results"))


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("3f2a", "the 16 digits that `metabench plan STUDY --cells` shows"),
        ({"stage": "half"}, "the id of a training cell, or"),
        ({"cell": "0123456789abcdef", "stage": "middle"}, "unknown stage 'middle'"),
        (
            {"cell": "0123456789abcdef", "stages": "half"},
            "unknown key of start 'stages'; did you mean 'stage'",
        ),
        ([], "at least one value"),
    ],
)
def test_a_wrong_start_is_one_clear_error(cells, at, said):
    Path("measure.toml").write_text(MEASURING.replace("START", json.dumps(at).replace('": ', '" = ')))
    result = metabench("plan", "measure.toml")
    assert result.code == 2
    assert said in result.err.replace("\n", " ")


def test_references_of_a_started_cell_are_of_its_start(cells):
    (cell,) = starting(MEASURING, cells[1].id)
    placed = start.located(cell.description, Path("results"))
    drawn = {key: value for key, value in cell.description.items() if key != "start"}
    one, other = references(placed)["maml"], references(drawn)["maml"]
    assert not torch.equal(one.value, other.value)
