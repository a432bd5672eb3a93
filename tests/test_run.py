"""Cells from description to record: draws, determinism, failures, passes."""

import importlib
import json
import subprocess
import sys

import pytest
import torch

from bench import inputs, measure, registry, run
from bench.api import Tasks
from bench.cells import Cell, cell_id
from bench.failures import PassFailedError, classify
from bench.record import STATUSES, Store
from bench.run import run_cell

CUDA = torch.cuda.is_available()
linux = pytest.mark.skipif(measure.resident_missing() is not None, reason=str(measure.resident_missing()))


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """`tests.toy_methods`, registered for one test."""
    registry.load_plugins()
    monkeypatch.setattr(
        registry, "_classes", {kind: dict(names) for kind, names in registry._classes.items()}
    )
    monkeypatch.setattr(registry, "_names", dict(registry._names))
    monkeypatch.delitem(sys.modules, "tests.toy_methods", raising=False)
    for memo in (inputs.draw, run._maml, run._implicit):
        memo.cache_clear()
    return importlib.import_module("tests.toy_methods")


def cell(method="good", problem="toy", **changes):
    """A cell of the toy method, or of the method that a table describes."""
    table = {"name": "toy-method", "behaviour": method} if isinstance(method, str) else method
    description = {
        "problem": registry.describe(registry.build("problem", problem)),
        "method": registry.describe(registry.build("method", table)),
        "seed": 0, "n_tasks": 3, "split": "train", "dtype": "float64", "device": "cpu", "threads": 1,
        "passes": ["accuracy"], "repeats": 2, "contract": 1, **changes,
    }  # fmt: skip
    return Cell(cell_id(description), description)


def imaml(**fields):
    return {"name": "imaml", **fields}


def test_a_whole_record(tmp_path):
    maml = {"name": "maml", "inner": {"name": "gradient_descent", "steps": 5, "learning_rate": 0.05}}
    one = cell(maml, "linear_regression", passes=["accuracy", "time", "tensor_bytes", "resident"])
    record = run_cell(one, "study")
    assert record["status"] == "ok"
    assert record["reason"] is None
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
    monkeypatch.setattr(run, "implicit_reference", lambda b: asked.append(b) or real(b))
    for behaviour in ("good", "stall", "half-nan"):
        run_cell(cell(behaviour), "study")
    assert len(asked) == 1
    run_cell(cell(dtype="float32"), "study")
    run_cell(cell(seed=1), "study")
    assert len(asked) == 3


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


# --- failures


@pytest.mark.parametrize(
    ("behaviour", "status", "kind", "message"),
    [
        ("raise", "error", "KeyError", "lost"),
        ("runtime", "error", "RuntimeError", "sizes differ"),
        ("memory", "out_of_memory", "MemoryError", "MemoryError"),
        ("allocator", "out_of_memory", "RuntimeError", "allocate"),
        ("decline", "declined", "Declined", "toys do not do this"),
        ("shape", "error", "BrokenPromiseError", "meta_grad must have shape (3, 5), got (5,)"),
        ("dtype", "error", "BrokenPromiseError", "adapted must have dtype torch.float64, got torch.float32"),
        ("tuple", "error", "BrokenPromiseError", "returns a bench.api.Estimate; got tuple"),
        ("stat", "error", "BrokenPromiseError", "stats['iterations'] must have shape (3,), got ()"),
    ],
)
def test_failures_are_classified(behaviour, status, kind, message):
    record = run_cell(cell(behaviour), "study")
    assert record["status"] == status
    assert status in STATUSES
    assert record["reason"]["type"] == kind
    assert message in record["reason"]["message"]
    assert (record["reason"]["traceback"] is None) == (status == "declined")
    assert "accuracy" not in record


def test_a_traceback_names_the_line():
    assert 'raise KeyError("lost")' in run_cell(cell("raise"), "study")["reason"]["traceback"]


@pytest.mark.parametrize(("fault", "status"), [("decline", "declined"), ("raise", "error")])
def test_a_failing_problem_is_classified(fault, status):
    record = run_cell(cell(problem={"name": "toy", "fault": fault}), "study")
    assert record["status"] == status


def test_a_result_that_is_not_finite():
    record = run_cell(cell("nan"), "study")
    assert record["status"] == "non_finite"
    assert record["reason"]["message"] == "meta_grad is not finite in all tasks"
    assert record["accuracy"]["references"]["maml"]["relative_error"] == [None] * 3
    assert all(loss > 0 for loss in record["accuracy"]["adapted"]["query_loss"])  # what is known stays
    half = run_cell(cell("half-nan"), "study")
    assert half["reason"]["message"] == "meta_grad is not finite in task 1"
    assert [e is None for e in half["accuracy"]["references"]["maml"]["relative_error"]] == [
        False,
        True,
        False,
    ]
    json.dumps(half, allow_nan=False)


def test_a_solver_that_does_not_converge():
    record = run_cell(cell("stall"), "study")
    assert record["status"] == "not_converged"
    assert record["reason"]["message"] == "not converged in task 1; linear_residual up to 0.25"
    assert record["accuracy"]["converged"] == [True, False, True]
    assert record["accuracy"]["stats"] == {"linear_residual": [0.25] * 3, "iterations": [0.0, 1.0, 2.0]}
    assert record["accuracy"]["references"]["implicit"]["relative_error"]


def test_a_zero_reference_gives_no_numbers():
    from bench.accuracy import compare
    from bench.reference import Reference

    reference = Reference("by hand", torch.zeros(1, 2, dtype=torch.float64), {})
    found = compare(torch.ones(1, 2, dtype=torch.float64), reference)
    assert found["relative_error"] == found["cosine"] == found["norm_ratio"] == [None]


@pytest.mark.parametrize(("behaviour", "status"), [("late-raise", "error"), ("late-memory", "out_of_memory")])
def test_a_failing_cost_pass_keeps_the_accuracy(behaviour, status):
    record = run_cell(cell(behaviour, passes=["accuracy", "time", "tensor_bytes"]), "study")
    assert record["status"] == status
    assert record["accuracy"]["references"]["implicit"]["relative_error"]
    assert record["calls"]
    assert not {"time", "tensor_bytes"} & set(record)


def test_an_interrupt_passes_through(monkeypatch):
    def interrupt(description):
        raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell(), "study")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "method", ["maml", "imaml", "fomaml", {"name": "imaml", "linear": {"name": "dense"}}]
)
def test_half_precision_is_measured_or_classified(dtype, method):
    table = {"name": method} if isinstance(method, str) else method
    record = run_cell(
        cell(table, "linear_regression", dtype=dtype, passes=["accuracy", "tensor_bytes"]), "study"
    )
    assert record["status"] in STATUSES
    assert record["status"] == "ok" or record["reason"]["message"]
    json.dumps(record, allow_nan=False)


@pytest.mark.skipif(CUDA, reason="this machine has a CUDA device")
def test_cuda_is_declined_without_a_device():
    record = run_cell(cell(device="cuda"), "study")
    assert record["status"] == "declined"
    assert "no CUDA device" in record["reason"]["message"]


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_cell_on_cuda():
    every = ["accuracy", "time", "tensor_bytes", "resident"]
    record = run_cell(cell(imaml(), "linear_regression", device="cuda", passes=every), "study")
    assert record["status"] == "ok"
    assert record["tensor_bytes"]["meter"] == "cuda_allocated"
    assert record["environment"]["gpu"]


def test_allocator_messages():
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert classify(cuda)[0] == "out_of_memory"
    assert classify(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))[0] == "out_of_memory"
    assert classify(ValueError("out of memory"))[0] == "error"
    reason = {"message": "m", "type": "t", "traceback": None}
    assert classify(PassFailedError("killed", reason)) == ("killed", reason)


# --- resident pass


@linux
def test_resident_pass_sees_what_a_method_allocates():
    grown, nothing = (run_cell(cell(b, passes=["resident"]), "study") for b in ("allocate", "print"))
    assert grown["status"] == nothing["status"] == "ok"
    assert grown["resident"]["growth_bytes"] == pytest.approx(200 * 2**20, rel=0.03)
    assert nothing["resident"]["growth_bytes"] < 4 * 2**20
    assert nothing["resident"]["before_bytes"] > 50 * 2**20


@linux
def test_a_failure_in_the_fresh_process_has_its_traceback():
    record = run_cell(cell("raise-in-child", passes=["accuracy", "resident"]), "study")
    assert record["status"] == "error"
    assert record["reason"]["message"] == "lost in the child"
    assert "toy_methods.py" in record["reason"]["traceback"]
    assert record["accuracy"]["references"]["implicit"]["relative_error"]
    assert "resident" not in record


@linux
@pytest.mark.parametrize(
    ("fate", "status", "message"),
    [
        ("kill -KILL $$", "killed", "killed by SIGKILL; the kernel's out-of-memory killer does this"),
        ("kill -SEGV $$", "killed", "killed by SIGSEGV"),
        ("echo why >&2; exit 3", "error", "exit code 3"),
        ("exec sleep 600", "timed_out", "was ended after 0.5 s"),
        ("echo nonsense", "error", "Expecting value"),
    ],
)
def test_a_dying_resident_pass_keeps_the_rest(fate, status, message, monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\ncat > /dev/null\n{fate}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    if status == "timed_out":
        monkeypatch.setattr(run, "RESIDENT_SECONDS", 0.5)
        monkeypatch.setattr(run, "RESIDENT_CALLS", 0.0)
    record = run_cell(cell(passes=["accuracy", "resident"]), "study")
    assert record["status"] == status
    assert message in record["reason"]["message"]
    assert ("why" in str(record["reason"]["traceback"])) == ("why" in fate)
    assert record["accuracy"]["references"]["implicit"]["relative_error"]
    assert "resident" not in record


def test_modules_of_a_cell_include_its_parts():
    prepared = inputs.prepare(cell({"name": "imaml", "inner": {"name": "toy-descent"}}).description)
    assert {"tests.toy_methods", "methods.imaml", "methods.linear.conjugate_gradient"} <= set(
        prepared.modules()
    )
    assert isinstance(prepared.tasks, Tasks)
