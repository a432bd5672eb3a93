"""Cells from description to record: draws, determinism, references, passes."""

import json
import subprocess
import sys

import pytest
import torch

from bench import cores, inputs, run
from bench.api import Tasks
from bench.record import Store
from bench.run import run_cell
from tests.toy_cells import cell, register_toys


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register_toys(monkeypatch)


def imaml(**fields):
    return {"name": "imaml", **fields}


def test_a_whole_record(tmp_path):
    maml = {"name": "maml", "inner": {"name": "gradient_descent", "steps": 5, "learning_rate": 0.05}}
    one = cell(maml, "linear_regression", passes=["accuracy", "time", "tensor_bytes", "resident"])
    record = run_cell(one, "study")
    assert record["status"] == "ok"
    assert record["reason"] is None
    assert record["environment"]["cores_usable"] == (len(cores.available()) or None)
    assert (record["schema"], record["id"], record["study"], record["cell"]) == (
        1,
        one.id,
        "study",
        one.description,
    )
    accuracy = record["accuracy"]
    assert all(e < 1e-13 for e in accuracy["references"]["maml"]["relative_error"])
    implicit = accuracy["references"]["implicit"]
    assert all(0.01 < e < 1 for e in implicit["relative_error"])
    assert all(0.5 < c < 1 for c in implicit["cosine"])
    assert all(0.5 < r < 2 for r in implicit["norm_ratio"])
    assert all(0 < s < 1 for s in accuracy["adapted"]["stationarity"])
    assert len(accuracy["adapted"]["query_loss"]) == 3
    assert accuracy["adapted"]["query_accuracy"] is None
    assert accuracy["converged"] == [True] * 3
    assert record["calls"] == {
        "inner_values": 0, "inner_grads": 10, "inner_hvps": 5, "outer_values": 0, "outer_grads": 1,
    }  # fmt: skip
    for name in ("samples_s", "reference_s", "control_s"):
        assert len(record["time"][name]) == 2
    assert record["time"]["reference"] == {"name": "fomaml", "inner": one.description["method"]["inner"]}
    assert record["tensor_bytes"]["n_params"] == 50
    assert record["tensor_bytes"]["peak"] > 3 * 50 * 8
    assert set(record["resident"]) in ({"missing"}, {"peak_bytes", "before_bytes", "growth_bytes"})
    assert set(record["pass_seconds"]) == {"inputs", "method", "accuracy", "time", "tensor_bytes", "resident"}
    assert record["started"].endswith("Z")
    assert record["seconds"] >= sum(record["pass_seconds"].values())
    assert record["environment"]["torch"] == torch.__version__
    assert record["environment"]["data"] is None
    store = Store(tmp_path, "study")
    store.write(record)
    assert store.read(one.id) == json.loads(json.dumps(record))


def test_only_the_passes_asked_for():
    record = run_cell(cell(passes=["tensor_bytes"]), "study")
    assert not {"accuracy", "time", "resident"} & set(record)
    assert record["calls"]["outer_grads"] == 1
    assert record["status"] == "ok"


# --- draws


def test_seeds_depend_on_every_component_and_nothing_else():
    first = inputs.generator("init", {"name": "a", "x": 1.0}, 0).initial_seed()
    assert first == inputs.generator("init", {"x": 1.0, "name": "a"}, 0).initial_seed()
    others = [
        ("tasks", {"name": "a", "x": 1.0}, 0),
        ("init", {"name": "a", "x": 1.5}, 0),
        ("init", {"name": "a"}, 1),
    ]
    assert first not in [inputs.generator(*c).initial_seed() for c in others]
    assert first == 2973721412  # the same in every version


def test_draws_do_not_depend_on_other_cells_or_the_number_of_tasks():
    few, many = inputs.prepare(cell().description), inputs.prepare(cell(n_tasks=7).description)
    assert torch.equal(few.meta, many.meta)
    assert torch.equal(few.tasks.support_x, many.tasks.support_x[:3])
    assert len(torch.unique(many.tasks.query_y)) == 7 * 4
    other_method = inputs.prepare(cell(imaml()).description)
    assert torch.equal(few.tasks.query_x, other_method.tasks.query_x)
    other_seed = inputs.prepare(cell(seed=1).description)
    assert not torch.equal(few.meta, other_seed.meta)
    assert not torch.equal(few.tasks.support_x, other_seed.tasks.support_x)
    other_split = inputs.prepare(cell(split="val").description)
    assert torch.equal(few.meta, other_split.meta)
    assert not torch.equal(few.tasks.support_x, other_split.tasks.support_x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_references_get_the_rounded_inputs(dtype):
    description = cell(dtype=dtype).description
    prepared, exact = inputs.prepare(description), inputs.exact(inputs.exact_key(description))
    assert prepared.meta.dtype == getattr(torch, dtype)
    assert exact.meta.dtype == torch.float64
    assert torch.equal(prepared.meta.double(), exact.meta)
    assert torch.equal(prepared.tasks.support_x.double(), exact.tasks.support_x)


def test_float32_inputs_are_no_error_of_the_method():
    maml = {"name": "maml", "inner": {"name": "gradient_descent", "steps": 5, "learning_rate": 0.05}}
    record = run_cell(cell(maml, "linear_regression", dtype="float32"), "study")
    errors = record["accuracy"]["references"]["maml"]["relative_error"]
    assert all(1e-9 < e < 1e-5 for e in errors)


# --- determinism


def test_same_cell_same_bits(tmp_path):
    small = {"name": "sinusoid", "network": {"name": "mlp", "hidden": [8]}}
    one = cell(imaml(), small, dtype="float32")
    first = run_cell(one, "study")
    run_cell(cell("good"), "study")
    again = run_cell(one, "study")
    assert first["status"] == "ok"
    assert first["accuracy"] == again["accuracy"]
    script = "import json, sys; from bench.run import run_cell; from bench.cells import Cell;"
    script += "print(json.dumps(run_cell(Cell(sys.argv[1], json.loads(sys.argv[2])), 'study')['accuracy']))"
    command = [sys.executable, "-c", script, one.id, json.dumps(one.description)]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(fresh) == first["accuracy"]


def test_the_global_state_is_the_callers():
    """A plugin that draws from the global generator sees its own, the same in every run."""
    before = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    first = run_cell(cell("random"), "study")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before[1])
    assert torch.equal(torch.get_rng_state(), before[0])
    torch.rand(3)
    again = run_cell(cell("random"), "study")
    assert first["accuracy"]["meta_grad_sha256"] == again["accuracy"]["meta_grad_sha256"]


def test_threads_are_the_cells(monkeypatch):
    seen = []
    real = inputs.prepare
    monkeypatch.setattr(inputs, "prepare", lambda d: seen.append(torch.get_num_threads()) or real(d))
    for threads in (1, 2):
        run_cell(cell("raise", threads=threads), "study")
    assert seen == [1, 2]


def test_a_method_that_writes_into_its_input_spoils_no_other_cell():
    first = run_cell(cell("good"), "study")
    run_cell(cell("write-input"), "study")
    assert run_cell(cell("good"), "study")["accuracy"] == first["accuracy"]


# --- references


def test_references_are_shared(monkeypatch):
    asked = []
    real = run.implicit_reference
    monkeypatch.setattr(run, "implicit_reference", lambda b: asked.append(torch.get_num_threads()) or real(b))
    for behaviour in ("good", "stall", "half-nan"):
        run_cell(cell(behaviour), "study")
    assert len(asked) == 1
    run_cell(cell(dtype="float32"), "study")
    run_cell(cell(seed=1, threads=2), "study")
    assert asked == [1, 1, 1]  # on one thread, lest they depend on the cell that asks first


def test_a_method_without_an_inner_solver_has_no_maml_reference():
    record = run_cell(cell({"name": "toy-plain"}, passes=["accuracy", "time"]), "study")
    assert "no inner solver" in record["accuracy"]["references"]["maml"]["missing"]
    assert record["time"]["reference"]["name"] == "fomaml"


def test_a_failing_reference_is_a_reason_and_no_failure(monkeypatch):
    broken = {"name": "toy-descent", "broken": True}
    record = run_cell(cell({"name": "toy-method", "inner": broken}), "study")
    assert record["status"] == "ok"
    assert "this step breaks" in record["accuracy"]["references"]["maml"]["missing"]
    assert record["accuracy"]["references"]["implicit"]["relative_error"]


def test_single_tasks_without_a_reference(monkeypatch):
    real = run.implicit_reference

    def partly(bilevel):
        reference = real(bilevel)
        reference.value[1] = torch.nan
        reference.missing[1] = "indefinite: as an example"
        return reference

    monkeypatch.setattr(run, "implicit_reference", partly)
    found = run_cell(cell(), "study")["accuracy"]["references"]["implicit"]
    assert found["missing_tasks"] == {"1": "indefinite: as an example"}
    for name in ("relative_error", "cosine", "norm_ratio"):
        assert [value is None for value in found[name]] == [False, True, False]


def test_modules_of_a_cell_include_its_parts():
    prepared = inputs.prepare(cell({"name": "imaml", "inner": {"name": "toy-descent"}}).description)
    assert {"tests.toy_methods", "methods.imaml", "methods.linear.conjugate_gradient"} <= set(
        prepared.modules()
    )
    assert isinstance(prepared.tasks, Tasks)
