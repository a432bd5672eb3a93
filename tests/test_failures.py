"""Every failure of a plugin is a status and a reason, and what was measured before it stays."""

import json
import sys

import pytest
import torch

from bench import inputs, measure, run
from bench.accuracy import compare
from bench.failures import PassFailedError, classify
from bench.record import STATUSES
from bench.reference import Reference
from bench.run import run_cell
from tests.toy_cells import cell, register_toys

CUDA = torch.cuda.is_available()
linux = pytest.mark.skipif(measure.resident_missing() is not None, reason=str(measure.resident_missing()))


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    register_toys(monkeypatch)


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
def test_a_cuda_device_that_is_not_there_is_declined():
    record = run_cell(cell(device="cuda:63"), "study")
    assert record["status"] == "declined"
    expected = "this machine has no cuda:63; the CUDA devices that torch can use: cuda:0"
    assert record["reason"]["message"].startswith(expected)


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_cell_on_cuda():
    every = ["accuracy", "time", "tensor_bytes", "resident"]
    record = run_cell(cell({"name": "imaml"}, "linear_regression", device="cuda", passes=every), "study")
    assert record["status"] == "ok"
    assert record["tensor_bytes"]["meter"] == "cuda_requested"
    assert record["environment"]["gpu"] == torch.cuda.get_device_name()
    assert record["environment"]["gpu_driver"]
    assert record["environment"]["cudnn"]


def test_messages_of_cuda_say_what_happened_and_the_traceback_the_rest():
    known = "CUDA out of memory. Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 79 GiB."
    for more in (" Process 622 has 60.08 GiB memory in use.", " Including non-PyTorch memory, this process"):
        status, reason = classify(torch.OutOfMemoryError(known + more))
        assert (status, reason["message"]) == ("out_of_memory", known)
        assert more in reason["traceback"]
    lines = "CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs"
    reason = classify(torch.AcceleratorError(lines))[1]
    assert reason["message"] == "CUDA error: device-side assert triggered"
    assert "Search for" in reason["traceback"]


def test_allocator_messages():
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert classify(cuda)[0] == "out_of_memory"
    assert classify(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))[0] == "out_of_memory"
    full = "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"
    assert classify(RuntimeError(full))[0] == "out_of_memory"
    assert classify(RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"))[0] == "error"
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
