"""Cells on a CUDA device: the CPU's numbers in float64, each dtype's rounding, and the machine as it was."""

from typing import Any

import pytest
import torch

from bench import inputs
from bench.accuracy import check
from bench.api import Declined, Estimate
from bench.cells import Cell, cell_id
from bench.registry import build, describe, unavailable
from bench.run import run_cell
from tests.cases import CG, GD, METHODS, NEWTON, identify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LINEAR = {"name": "linear_regression", "dim": 12}
SINUSOID = {"name": "sinusoid", "strength": 40.0, "network": {"name": "mlp", "activation": "tanh"}}
SMALL = {**SINUSOID, "network": {"name": "mlp", "hidden": [8, 8], "activation": "tanh"}}
GLYPHS = {"name": "glyphs"}
CONVOLUTION = {"name": "glyphs", "strength": 200.0, "network": {"name": "conv4", "filters": 32}}
FEW = {"name": "gradient_descent", "steps": 5, "learning_rate": 0.004}
MAML = {"name": "maml", "inner": FEW}
IMAML = {"name": "imaml", "inner": FEW}
# Quotients of differences multiply rounding, which is another on every processor.
QUOTIENTS = {"fo-b-maml", "contrastive"}
TIGHT, LOOSE = 1e-10, 1e-6


def description(method: dict[str, Any], problem: dict[str, Any] = LINEAR, **changes: Any) -> dict[str, Any]:
    parts = {
        "problem": describe(build("problem", problem)),
        "method": describe(build("method", method)),
    }
    settings = {"seed": 0, "n_tasks": 3, "split": "train", "dtype": "float64", "device": "cuda", "threads": 1}
    return {**parts, **settings, "passes": ["accuracy"], "repeats": 3, "contract": 1, **changes}


def estimate(of: dict[str, Any]) -> Estimate:
    with inputs.conditions(of):
        cell = inputs.prepare(of)
        bilevel = cell.bilevel()
        return check(cell.run(bilevel), bilevel)


def run(of: dict[str, Any]) -> dict[str, Any]:
    return run_cell(Cell(cell_id(of), of), "study")


def gap(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.cpu() - wanted).norm() / wanted.norm())


def errors(record: dict[str, Any], reference: str = "maml") -> list[float]:
    assert record["status"] == "ok", record["reason"]
    return record["accuracy"]["references"][reference]["relative_error"]


@pytest.mark.parametrize("problem", [LINEAR, SMALL], ids=lambda p: p["name"])
@pytest.mark.parametrize("case", METHODS, ids=identify)
def test_a_method_in_float64_is_that_of_the_cpu(case, problem) -> None:
    if reason := unavailable(build("method", case.table)):
        pytest.skip(reason)
    of = description(case.table, problem)
    try:
        here = estimate(of)
    except Declined as declined:
        pytest.skip(str(declined))
    there = estimate(of | {"device": "cpu"})
    assert here.meta_grad.is_cuda
    allowed = LOOSE if case.name in QUOTIENTS else TIGHT
    assert gap(here.meta_grad, there.meta_grad) < allowed
    assert gap(here.adapted, there.adapted) < allowed


@pytest.mark.parametrize("problem", [GLYPHS, CONVOLUTION], ids=["mlp", "convolution"])
def test_float32_is_float32_and_tf32_is_not(problem) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    fine, coarse = (errors(run(description(MAML, problem, dtype=d))) for d in ("float32", "tf32"))
    assert max(fine) < 1e-5
    assert 3e-5 < min(coarse) <= max(coarse) < 0.03


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_has_the_error_of_the_cpu(dtype) -> None:
    here, there = (errors(run(description(MAML, GLYPHS, dtype=dtype, device=d))) for d in ("cuda", "cpu"))
    assert here == pytest.approx(there, rel=0.5)


@pytest.mark.parametrize("dtype", ["float64", "float32", "tf32"])
@pytest.mark.parametrize("problem", [GLYPHS, CONVOLUTION], ids=["mlp", "convolution"])
def test_the_same_cell_gives_the_same_bits(problem, dtype) -> None:
    for method in (MAML, IMAML):
        records = [run(description(method, problem, dtype=dtype)) for _ in range(4)]
        assert len({record["accuracy"]["meta_grad_sha256"] for record in records}) == 1


def test_a_cell_leaves_the_process_as_it_was() -> None:
    def state() -> tuple[Any, ...]:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        switches = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
        random = torch.cuda.get_rng_state().tolist(), torch.get_rng_state().tolist()
        return *switches, torch.get_float32_matmul_precision(), torch.cuda.current_device(), random

    before = state()
    for dtype in ("tf32", "float32"):
        assert run(description(MAML, dtype=dtype))["status"] == "ok"
        assert state() == before


@pytest.mark.parametrize("dtype", ["float64", "tf32", "float32"])
@pytest.mark.parametrize("method", [MAML, IMAML], ids=["maml", "imaml"])
def test_a_compiled_cell_is_the_eager_one(method, dtype) -> None:
    of = description(method, SINUSOID, dtype=dtype)
    fast, plain = run(of | {"engine": "compiled"}), run(of)
    assert fast["status"] == plain["status"] == "ok"
    assert fast["calls"] == plain["calls"]
    assert fast["engine"]
    assert not [kernel for kernel in fast["engine"].values() if "eager" in kernel]
    reference = "maml" if method is MAML else "implicit"
    rounding = {"float64": 1e-12, "float32": 2e-6, "tf32": 1e-2}[dtype]
    assert errors(fast, reference) == pytest.approx(errors(plain, reference), rel=1e-3, abs=rounding)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_bytes_repeat_and_are_about_those_of_the_cpu(engine) -> None:
    of = description(MAML, GLYPHS, dtype="float32", passes=["tensor_bytes"])
    first, second = (run(of | {"engine": engine})["tensor_bytes"] for _ in range(2))
    assert first == second
    eager = run(of | {"device": "cpu"})["tensor_bytes"]["peak"]
    # Kernels on CUDA may take scratch space; compiled ones fuse operations.
    assert 0.3 * eager < first["peak"] < 1.1 * eager


def test_numerics_and_proofs() -> None:
    of = description(MAML, SMALL, dtype="float32", n_tasks=1, passes=["accuracy", "certified", "numerics"])
    record = run(of)
    assert record["numerics"]["gradient_overflow"] == [0]
    (proof,) = record["certified"]["tasks"]
    assert 1e-9 < proof["rounding"]["lower"] <= proof["rounding"]["upper"] < 1e-6


def test_a_scale_that_is_kept_on_the_cpu_is_told_of_a_cell_that_does_not_converge() -> None:
    inner = {"name": "gradients_in", "dtype": "float16", "loss_scale": 65536.0, "dynamic": True}
    method = {"name": "imaml", "inner": inner | {"inner": "lbfgs"}, "linear": CG | {"iterations": 2}}
    record = run(description(method, SINUSOID, dtype="float32"))
    assert record["status"] == "not_converged"
    assert record["accuracy"]["stats"]["loss_scale"]


def test_what_is_too_large_is_out_of_memory_and_holds_nothing() -> None:
    large = {"name": "linear_regression", "dim": 200_000}  # its Hessian has 300 GiB
    record = run(description({"name": "imaml", "inner": "closed_form"}, large))
    assert record["status"] == "out_of_memory"
    assert record["reason"]["message"].startswith("CUDA out of memory. Tried to allocate")
    assert "Process" not in record["reason"]["message"]
    kept = torch.cuda.memory_reserved()
    assert run(description({"name": "imaml", "inner": NEWTON, "linear": CG}))["status"] == "ok"
    assert torch.cuda.memory_reserved() <= kept + 2**27  # cuBLAS keeps its workspaces
    assert run(description({"name": "fomaml", "inner": GD}))["status"] == "ok"
