"""Parts in another precision: equal to the plain ones where nothing is cast, and to float64's where it is."""

from dataclasses import replace

import pytest
import torch

from bench import api, inputs
from bench.api import Bilevel, Declined, InvalidValueError, finite
from bench.cells import Cell, cell_id
from bench.failures import classify
from bench.reference import maml_reference
from bench.registry import build, describe
from bench.run import run_cell
from bench.testing.samples import draws, product, regression, sinusoid, system
from tests.cases import LINEAR_SOLVERS, PARTS, LinearCase, PartCase, identify

F16, F32, F64 = torch.float16, torch.float32, torch.float64
GD = {"name": "gradient_descent", "steps": 12, "learning_rate": 0.02}
CG = {"name": "conjugate_gradient", "iterations": 8}
INNER = [case for case in PARTS if case.kind == "inner"]
CURVATURES = [case for case in PARTS if case.kind == "curvature"]
HALVES = {"float16": F16, "bfloat16": torch.bfloat16}


def in_dtype(kind: str, part: dict, dtype: str = "float64", **fields) -> dict:
    return {"name": "in_dtype", "dtype": dtype, kind: part, **fields}


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("dtype", [F64, F32, F16], ids=str)
@pytest.mark.parametrize("case", INNER, ids=identify)
def test_inner_solver_wrapped_in_the_cells_dtype_is_the_same_bit_for_bit(case: PartCase, dtype) -> None:
    bilevel = regression().to(dtype)
    name = str(dtype).removeprefix("torch.")
    if case.name == "closed_form" and dtype == F16:  # torch lacks a kernel
        with pytest.raises(NotImplementedError) as caught:
            build("inner", case.table)(bilevel, bilevel.start)
        assert classify(caught.value)[0] == "declined"
        return
    plain = build("inner", case.table)(bilevel, bilevel.start).value
    wrapped = {"name": "gradients_in", "dtype": name, "inner": case.table}
    for table in (in_dtype("inner", case.table, name), wrapped):
        found = build("inner", table)(bilevel, bilevel.start).value
        assert torch.equal(found, plain) or not finite(plain).all()


@pytest.mark.parametrize("case", INNER, ids=identify)
def test_inner_solver_in_float64_is_float64s_up_to_the_cast(case: PartCase) -> None:
    low = sinusoid().to(F32) if case.name != "closed_form" else regression().to(F32)
    high = low.to(F64)
    wanted = build("inner", case.table)(high, high.start).value
    found = build("inner", in_dtype("inner", case.table))(low, low.start).value
    assert found.dtype == F32
    assert torch.equal(found, wanted.float())


@pytest.mark.parametrize("case", LINEAR_SOLVERS, ids=identify)
def test_linear_solver_wrapped_in_the_cells_dtype_is_the_same_bit_for_bit(case: LinearCase) -> None:
    matrix, rhs = system(10.0)
    plain = build("linear", case.table)(product(matrix), rhs, noise=draws(range(3), rhs))
    wrapped = build("linear", in_dtype("linear", case.table))(
        product(matrix), rhs, noise=draws(range(3), rhs)
    )
    assert torch.equal(plain.value, wrapped.value)
    assert torch.equal(plain.converged, wrapped.converged)


@pytest.mark.parametrize("case", LINEAR_SOLVERS, ids=identify)
def test_linear_solver_in_float64_is_float64s_up_to_the_casts(case: LinearCase) -> None:
    """With products in float32: v is rounded on the way in, the product on the way out."""
    matrix, rhs = (x.float() for x in system(10.0))
    single = product(matrix)

    def casting(v: torch.Tensor) -> torch.Tensor:
        return single(v.float()).double()

    wanted = build("linear", case.table)(casting, rhs.double(), noise=draws(range(3), rhs.double()))
    found = build("linear", in_dtype("linear", case.table))(single, rhs, noise=draws(range(3), rhs))
    assert found.value.dtype == F32
    stochastic = 1e-5 if "nystrom" in str(case.table) or "preconditioned" in case.name else 0.0
    torch.testing.assert_close(found.value, wanted.value.float(), rtol=stochastic, atol=stochastic)


@pytest.mark.parametrize("case", CURVATURES, ids=identify)
def test_products_in_float64_are_float64s_up_to_the_casts(case: PartCase) -> None:
    low = sinusoid().to(F32)
    high, v = low.to(F64), low.noise(3)
    curvature = build("curvature", in_dtype("curvature", case.table))
    wanted = build("curvature", case.table)(high, high.start)(v.double())
    assert torch.equal(curvature(low, low.start)(v), wanted.float())
    same = build("curvature", in_dtype("curvature", case.table, "float32"))(low, low.start)(v)
    assert torch.equal(same, build("curvature", case.table)(low, low.start)(v))


def test_float64_all_the_way_through_loses_nothing_between_the_parts() -> None:
    """A float64 solve with float64 products: vectors are not rounded to the cell's float32 in between."""
    low = sinusoid().to(F32)
    parts = {"inner": in_dtype("inner", GD), "linear": in_dtype("linear", CG)}
    table = {"name": "imaml", **parts, "curvature": in_dtype("curvature", {"name": "exact"})}
    found = build("method", table)(low).meta_grad
    phi = build("inner", GD)(low.to(F64), low.to(F64).start).value.float()
    x = build("linear", CG)(low.to(F64).inner_hvp(phi.double()), low.outer_grad(phi).double()).value
    assert torch.equal(found, low.strength * x.float())
    rounded = build("method", table | {"curvature": "exact"})(low).meta_grad
    assert not torch.equal(found, rounded)


@pytest.mark.parametrize("name", ["gradient_descent", "momentum", "nesterov", "adam"])
def test_maml_with_parts_in_the_cells_dtype_is_the_same_bit_for_bit(name: str) -> None:
    solver = {"name": name, "steps": 12, "learning_rate": 0.02}
    for dtype in (F64, F32, F16):
        bilevel, own = regression().to(dtype), str(dtype).removeprefix("torch.")
        plain = build("method", {"name": "maml", "inner": solver})(bilevel)
        inner = in_dtype("inner", solver, own)
        products = in_dtype("curvature", {"name": "exact"}, own)
        for parts in ({"inner": inner}, {"inner": solver, "curvature": products}):
            found = build("method", {"name": "maml", **parts})(bilevel)
            assert torch.equal(found.meta_grad, plain.meta_grad)
            assert torch.equal(found.adapted, plain.adapted)


def test_maml_with_both_parts_in_float64_is_nearer_than_with_one() -> None:
    """On bfloat16 inputs, whose exact meta-gradient is float64's."""
    low = sinusoid().to(torch.bfloat16)
    exact = maml_reference(low.to(F64), build("inner", GD)).value
    inner, products = in_dtype("inner", GD), in_dtype("curvature", {"name": "exact"})
    tables = {
        "neither": {"inner": GD},
        "both": {"inner": inner, "curvature": products},
        "inner": {"inner": inner},
    }
    error = {
        name: relative(build("method", {"name": "maml", **table})(low).meta_grad, exact)
        for name, table in tables.items()
    }
    assert error["both"] < 2**-7  # a few casts of the result
    assert error["neither"] > 2**-10
    assert error["inner"] != error["neither"]


def test_wrapped_inner_solvers_where_they_cannot_be_differentiated_are_declined() -> None:
    bilevel = regression()
    for table in (
        {"name": "maml", "backward": "unrolled", "inner": in_dtype("inner", GD)},
        {"name": "truncated-maml", "inner": in_dtype("inner", GD)},
        {"name": "maml", "inner": in_dtype("inner", {"name": "lbfgs"})},
    ):
        with pytest.raises(Declined, match="cannot be differentiated step by step"):
            build("method", table)(bilevel)
    with pytest.raises(Exception, match="adjoint"):
        build("method", {"name": "maml", "backward": "unrolled", "curvature": "exact"})


def test_the_reference_of_a_wrapped_solver_is_the_exact_one_of_the_solver_inside() -> None:
    bilevel = regression()
    for wrapped in (
        in_dtype("inner", GD, "float16"),
        {"name": "gradients_in", "dtype": "float16", "inner": GD},
    ):
        found = maml_reference(bilevel, build("inner", in_dtype("inner", wrapped)))
        assert torch.equal(found.value, maml_reference(bilevel, build("inner", GD)).value)


# Loss scaling


def faint() -> Bilevel:
    """Tasks whose gradients are some 1e-9: nothing in float16, whose smallest number is 6e-8."""
    bilevel = regression()
    tiny = 2.0**-15
    tasks = replace(
        bilevel.tasks, support_x=bilevel.tasks.support_x * tiny, support_y=bilevel.tasks.support_y * tiny
    )
    problem = replace(bilevel.problem, strength=2.0**-40)
    return Bilevel(problem, tasks, bilevel.meta).to(F32)


def test_gradients_that_underflow_survive_by_their_scale() -> None:
    low = faint()
    exact = low.to(F64).inner_grad(low.to(F64).start)
    assert 1e-10 < exact.abs().max() < 6e-8

    def gradient(scale: float) -> torch.Tensor:
        step = {"name": "gradient_descent", "steps": 1, "learning_rate": 2.0**20}
        solver = build(
            "inner", {"name": "gradients_in", "dtype": "float16", "loss_scale": scale, "inner": step}
        )
        there = Bilevel(low.problem, low.tasks, torch.zeros_like(low.meta))
        return -solver(there, there.start).value / 2.0**20

    at_zero = Bilevel(low.problem, low.tasks, torch.zeros_like(low.meta)).to(F64)
    exact = at_zero.inner_grad(at_zero.start)
    assert not gradient(1.0).any()
    assert relative(gradient(2.0**15), exact) < 0.05


@pytest.mark.parametrize("scale", [2.0, 1024.0, 2.0**40])
def test_scales_change_no_bit_in_float64(scale: float) -> None:
    bilevel = sinusoid()
    plain = build("inner", GD)(bilevel, bilevel.start).value
    table = {"name": "gradients_in", "dtype": "float64", "loss_scale": scale, "inner": GD}
    assert torch.equal(build("inner", table)(bilevel, bilevel.start).value, plain)
    products = build("curvature", in_dtype("curvature", {"name": "exact"}, "float64", loss_scale=scale))
    v = bilevel.noise(1)
    assert torch.equal(products(bilevel, bilevel.start)(v), bilevel.inner_hvp(bilevel.start)(v))


def test_products_that_underflow_survive_by_their_scale() -> None:
    low = faint()
    v = low.noise(2)
    exact = low.to(F64).inner_hvp(low.to(F64).start)(v.double())

    def error(scale: float) -> float:
        table = in_dtype("curvature", {"name": "exact"}, "float16", loss_scale=scale)
        return relative(build("curvature", table)(low, low.start)(v), exact)

    assert error(1.0) > 0.2
    assert error(2.0**14) < 0.05


def test_dynamic_scale_backs_off_task_by_task_and_grows_again() -> None:
    """A task whose gradient overflows at 2^15 is halved until it does not; the others keep theirs."""
    bilevel = regression().to(F32)
    loud = bilevel.tasks.support_y.clone()
    loud[1] *= 50
    bilevel = Bilevel(bilevel.problem, replace(bilevel.tasks, support_y=loud), bilevel.meta)
    table = {"name": "gradients_in", "dtype": "float16", "loss_scale": 2.0**12, "dynamic": True}
    solver = build("inner", {**table, "inner": GD | {"steps": 3}})
    solution = solver(bilevel, bilevel.start)
    assert solution.converged.all()
    scale, halvings = solution.stats["loss_scale"], solution.stats["loss_scale_halvings"]
    assert halvings[1] > 0
    assert torch.equal(scale, 2.0**12 / 2.0**halvings)
    assert scale[1] < scale[0]
    alone = solver(bilevel.one(0), bilevel.one(0).start)
    assert torch.equal(alone.value[0], solution.value[0])
    static = build("inner", {**table, "dynamic": False, "inner": GD | {"steps": 3}})(bilevel, bilevel.start)
    assert not finite(static.value)[1]
    wanted = build("inner", GD | {"steps": 3})(bilevel, bilevel.start).value
    assert relative(solution.value - bilevel.start, wanted - bilevel.start) < 5e-3
    long = build("inner", {**table, "loss_scale": 1.0, "inner": GD | {"steps": 45}})(bilevel, bilevel.start)
    assert (long.stats["loss_scale"] == 4).all()  # doubled after 20 and after 40


@pytest.mark.parametrize("scale", [0.5, 3.0, float("inf"), 0.0])
def test_scales_are_powers_of_two(scale: float) -> None:
    with pytest.raises(InvalidValueError, match="power of two"):
        api.require_scale(scale)


# Inner products


def test_dots_in_the_dtype_of_the_vectors_change_no_bit() -> None:
    matrix, rhs = (x.float() for x in system(1e3))
    plain = build("linear", CG)(product(matrix), rhs)
    same = build("linear", CG | {"dots": "float32"})(product(matrix), rhs)
    assert torch.equal(plain.value, same.value)


def test_dots_in_float64_are_those_of_the_recursion_by_hand() -> None:
    """Vectors in float16, quotients of inner products in float64, rounded when they meet a vector."""
    matrix, rhs = (x.half() for x in system(10.0))
    found = build("linear", CG | {"iterations": 3, "dots": "float64"})(product(matrix), rhs).value
    size = rhs.abs().amax(dim=1, keepdim=True)
    x, r = torch.zeros_like(rhs), rhs / size
    p = r
    for _ in range(3):
        ap = product(matrix)(p)
        rr = (r.double() * r.double()).sum(dim=1)
        alpha = (rr / (p.double() * ap.double()).sum(dim=1)).half()[:, None]
        x, r = x + alpha * p, r - alpha * ap
        p = r + ((r.double() * r.double()).sum(dim=1) / rr).half()[:, None] * p
    assert torch.equal(found, x * size)


# Cells


def description(**changes) -> dict:
    problem = describe(build("problem", {"name": "linear_regression", "dim": 8}))
    method = describe(build("method", {"name": "maml", "inner": GD}))
    settings = {"seed": 0, "n_tasks": 2, "split": "train", "dtype": "float32", "device": "cpu", "threads": 1}
    whole = {"problem": problem, "method": method, **settings, "passes": ["accuracy"], "repeats": 3}
    return whole | changes


def run(**changes) -> dict:
    of = description(**changes)
    return run_cell(Cell(cell_id(of), of), "study")


def test_tf32_on_a_cpu_is_declined() -> None:
    record = run(dtype="tf32")
    assert record["status"] == "declined"
    assert "device is cpu" in record["reason"]["message"]


def test_switches_of_cudas_libraries_are_set_for_the_block_and_restored() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

    def read() -> tuple[bool, ...]:
        return matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark

    before = read()
    for wanted in (True, False):
        with inputs.on_cuda(torch.device("cuda"), wanted):
            assert read() == (wanted, wanted, True, False)
        with pytest.raises(ArithmeticError), inputs.on_cuda(torch.device("cuda", 63), wanted):
            raise ArithmeticError(read())
        assert read() == before
        with inputs.on_cuda(torch.device("cpu"), wanted):
            assert read() == before


def test_a_kernel_that_half_precision_lacks_declines_the_cell_by_its_name() -> None:
    method = describe(build("method", {"name": "imaml", "inner": "closed_form"}))
    for name in HALVES:
        record = run(dtype=name, method=method)
        assert record["status"] == "declined"
        assert record["reason"]["message"] == f"torch's kernel cholesky_cpu is not there in {name}"


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("method", ["maml", "fomaml", "reptile", "imaml"])
def test_half_precision_on_the_cpu(method: str, name: str) -> None:
    table = describe(build("method", {"name": method, "inner": GD}))
    record = run(dtype=name, method=table)
    assert record["status"] == "ok"
    if method == "maml":
        errors = record["accuracy"]["references"]["maml"]["relative_error"]
        assert all(2**-14 < e < 4 * torch.finfo(HALVES[name]).eps for e in errors)


def test_scale_one_leaves_ids_and_bits_alone() -> None:
    """A later field at its default is in no description; set, it changes the id and nothing of the draw."""
    for name in ("linear_regression", "sinusoid", "glyphs"):
        table = describe(build("problem", name))
        assert "scale" not in table
        assert "input_scale" not in table
        assert describe(build("problem", table | {"input_scale": 1.0})) == table
        assert describe(build("problem", table | {"input_scale": 2.0})) == table | {"input_scale": 2.0}
    assert "curvature" not in describe(build("method", "maml"))
    assert "dots" not in describe(build("linear", "conjugate_gradient"))


@pytest.mark.parametrize("name", ["linear_regression", "sinusoid", "glyphs"])
def test_scales_scale_the_same_draw(name: str) -> None:
    table = describe(build("problem", {"name": name}))
    plain = inputs.prepare(description(problem=table, dtype="float64"))
    loud = inputs.prepare(description(problem=table | {"input_scale": 4.0}, dtype="float64"))
    assert torch.equal(plain.meta, loud.meta)
    assert torch.equal(4 * plain.tasks.support_x, loud.tasks.support_x)
    assert torch.equal(plain.tasks.query_y, loud.tasks.query_y)
    if name != "glyphs":
        both = inputs.prepare(
            description(problem=table | {"scale": 0.5, "input_scale": 4.0}, dtype="float64")
        )
        assert torch.equal(2 * plain.tasks.query_x, both.tasks.query_x)
        assert torch.equal(0.5 * plain.tasks.support_y, both.tasks.support_y)


def test_smoothness_of_scaled_regression_is_as_stated() -> None:
    table = {"name": "linear_regression", "dim": 8, "condition": 6.0, "strength": 2.0, "scale": 3.0}
    problem = build("problem", table)
    tasks = problem.sample(torch.Generator().manual_seed(0), 2)
    x = tasks.support_x
    hessian = x.mT @ x / x.shape[1] + 2.0 * torch.eye(8, dtype=F64)
    largest = torch.linalg.eigvalsh(hessian)[:, -1]
    torch.testing.assert_close(largest, torch.full_like(largest, 2.0 * (1 + 9 * 5)))
