"""Training cells: from a study file to a record and a file of meta-parameters, over kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import arrays, course, inputs, spec
from bench.cells import expand
from bench.desk import Desk
from bench.errors import UsageError
from bench.record import Store, trained
from bench.run import run_cell
from bench.train import evaluate
from tests.command_line import metabench

STAGES = ("start", "half", "end")
STUDY = """
question = "Does it learn?"
kind = "train"
outer = [{name = "adam", learning_rate = 0.01}, "sgd"]
outer_steps = 12
evaluation_tasks = 30
validations = 4
validation_tasks = 20
n_tasks = 3
dtype = "float64"
problem = {name = "sinusoid", strength = 4.0, network = {name = "mlp", hidden = [8], activation = "tanh"}}
inner = {name = "gradient_descent", steps = 2, learning_rate = 0.02}
method = "maml"
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("learn.toml").write_text(STUDY)
    return spec.load("learn.toml")


def test_a_study_trains(study, tmp_path):
    cells = expand(study)
    assert [cell.description["outer"]["name"] for cell in cells] == ["adam", "sgd"]
    result = metabench("run", "learn.toml", "--jobs", 1)
    assert result.code == 0, result.err
    records = {r["id"]: r for r in Store("results", "learn").each()}
    for cell in cells:
        record = records[cell.id]
        assert record["status"] == "ok"
        train = record["train"]
        evaluated = [(e["step"], e["split"], e["n_tasks"]) for e in train["evaluations"]]
        assert evaluated == [*((step, "val", 20) for step in (0, 3, 6, 9, 12)), (12, "test", 30)]
        assert train["curve"]["step"] == list(range(1, 13))
        path = trained.file_of(Path("results/learn"), record)
        start, half, end = (trained.stage(path, name, train["file"]["sha256"]) for name in STAGES)
        of = course._course(cell.description, inputs.prepare(cell.description))
        for at, theta in ((0, start), (2, half), (4, end)):  # what is kept is what was evaluated
            found = {"step": 3 * at, **evaluate(of, torch.from_numpy(theta), "val", 20)}
            assert found == train["evaluations"][at]
        assert {"step": 12, **evaluate(of, torch.from_numpy(end), "test", 30)} == train["evaluations"][-1]
    again = run_cell(cells[0], "learn", Desk(tmp_path / "other"))
    assert again["train"]["curve"] == records[cells[0].id]["train"]["curve"]
    assert again["train"]["evaluations"] == records[cells[0].id]["train"]["evaluations"]
    assert again["train"]["file"] == records[cells[0].id]["train"]["file"]  # the same bits
    with pytest.raises(UsageError, match="no stage 'middle'; it has: start, half, end"):
        trained.stage(path, "middle")


def test_plan_and_show_of_trainings(study):
    assert "of work in 2 cells: 2 by declared oracle calls" in metabench("plan", "learn.toml").out
    first = expand(study)[0]
    assert metabench("run", "learn.toml", "--jobs", 0, "--cell", first.id).code == 0
    plan = metabench("plan", "learn.toml").out
    assert "1 ok, 1 missing" in plan
    assert "of work in 1 cell: 1 as others of their problem and method" in plan
    assert "outer=" not in metabench("plan", "learn.toml", "--cells").out  # named as all plugins are
    assert "adam" in metabench("plan", "learn.toml", "--cells").out
    said = metabench("show", first.id).out
    record = Store("results", "learn").read(first.id)
    assert record is not None
    rows = [line.split() for line in said.splitlines()]
    curve = rows[rows.index(next(row for row in rows if row[:2] == ["learning", "curve,"])) + 2 :][:5]
    losses = record["train"]["curve"]["loss"]
    for row, evaluation in zip(curve, record["train"]["evaluations"], strict=False):
        step = evaluation["step"]
        assert row[0] == str(step)
        assert row[1] == ("-" if step == 0 else f"{sum(losses[step - 3 : step]) / 3:.4g}")
        assert row[3:] == [
            f"{evaluation['loss']['mean']:.4g}",
            "±",
            f"{evaluation['loss']['half_width']:.2g}",
        ]
    test = record["train"]["evaluations"][-1]["loss"]
    assert f"{test['mean']:.4g} ± {test['half_width']:.2g} on 30 tasks" in said
    path = trained.file_of(Path("results/learn"), record)
    assert path is not None
    assert str(path) in said
    path.unlink()
    assert f"{path} is not there" in metabench("show", first.id).out
    assert metabench("status", "learn.toml").code == 1
    assert metabench("run", "learn.toml", "--jobs", 0).code == 0
    assert "2 ok" in metabench("status", "learn.toml").out
    rows = metabench("export", "learn.toml", "--output", "-").out.splitlines()
    assert len(rows) == 1 + 2 * 6
    assert {"outer", "outer.name", "evaluation.loss", "test.loss", "train.file"} <= set(rows[0].split(","))
    assert metabench("figures", "learn.toml").code == 0
    assert Path("results/learn/figures/learn.png").exists()
    assert metabench("report", "learn.toml").code == 0


SLOW = (
    STUDY.replace("outer_steps = 12", "outer_steps = 400")
    .replace("validations = 4", "validations = 40")
    .replace('outer = [{name = "adam", learning_rate = 0.01}, "sgd"]', 'outer = "adam"')
)


def test_a_killed_training_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("learn.toml").write_text(SLOW)
    (cell,) = expand(spec.load("learn.toml"))
    program = (
        "import sys; from pathlib import Path; from bench import course, spec; course.CHECKPOINT_S = 0.0\n"
        "from bench.cells import expand; from bench.desk import Desk; from bench.run import run_cell\n"
        "(cell,) = expand(spec.load('learn.toml'))\n"
        "run_cell(cell, 'learn', Desk(Path('killed')))\n"
    )
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    path = trained.checkpoint(Path("killed"), cell.id)
    try:
        end = time.monotonic() + 120
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    told = []
    resumed = run_cell(cell, "learn", Desk(Path("killed"), lambda done, steps: told.append(done)))
    assert told[0] > 1  # not from the beginning
    whole = run_cell(cell, "learn", Desk(Path("whole")))
    assert resumed["train"]["file"] == whole["train"]["file"]
    assert resumed["train"]["evaluations"] == whole["train"]["evaluations"]
    anew = []
    run_cell(cell, "learn", Desk(Path("killed"), lambda done, steps: anew.append(done), anew=True))
    assert anew[0] == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda kept: kept.pop("theta"), "it lacks theta"),
        (lambda kept: kept.update(losses=np.zeros(1000), norms=np.zeros(1000)), "after 1000 steps, of 12"),
        (lambda kept: kept.update(norms=np.zeros(1)), "sizes do not fit of losses and norms"),
        (lambda kept: kept.update({"stage.evil": kept["theta"]}), "no stage evil"),
        (lambda kept: kept.update({"stage.half": np.zeros(1)}), "'stage.half' has shape"),
        (lambda kept: kept.update({"optimizer.exp_avg": np.zeros(3)}), "sizes do not fit of exp_avg"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_name(study, spoil, said):
    cell = expand(spec.load("learn.toml"))[0]
    path = trained.checkpoint(Path("kept"), cell.id)
    whole = run_cell(cell, "learn", Desk(Path("kept")))
    kept = arrays.read(Path("kept") / trained.FOLDER / whole["train"]["file"]["name"])
    arrays.write(path, kept)
    assert run_cell(cell, "learn", Desk(Path("kept")))["train"]["resumed_at"] == 12
    spoil(kept)
    arrays.write(path, kept)
    record = run_cell(cell, "learn", Desk(Path("kept")))
    assert record["status"] == "error"
    assert f"{path} is no checkpoint of cell {cell.id}" in record["reason"]["message"]
    assert said in record["reason"]["message"]


def test_divergence_is_told(study):
    text = STUDY.replace('"sgd"]', '{name = "sgd", learning_rate = 1e200}]').replace("12", "40")
    Path("learn.toml").write_text(text)
    wild = expand(spec.load("learn.toml"))[1]
    record = run_cell(wild, "learn")
    assert record["status"] == "non_finite"
    assert "meta-gradient of step" in record["reason"]["message"]
    json.dumps(record)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('kind = "train"', 'kind = "trian"'), "did you mean 'train'"),
        (('kind = "train"\n', ""), "'outer' is no key of a sweep that measures"),
        (("outer_steps = 12\n", ""), "has no outer_steps; write for example outer_steps = 1000"),
        (
            ("outer_steps = 12\n", 'outer_steps = 12\npasses = "time"\n'),
            "'passes' is no key of a sweep that trains",
        ),
        (("outer_steps = 12", "outer_steps = 0"), "a whole number, 1 or more"),
        (('"sgd"]', '"sdg"]'), "did you mean 'sgd'"),
    ],
)
def test_a_wrong_key_is_one_clear_error(study, change, said):
    Path("learn.toml").write_text(STUDY.replace(*change))
    result = metabench("plan", "learn.toml")
    assert result.code == 2
    assert said in result.err.replace("\n", " ")
