"""Inner solvers, curvatures and problems of the table; inner optimisers against torch's own."""

from dataclasses import dataclass, fields, replace

import pytest
import torch

from bench.api import Bilevel
from bench.reference import implicit_reference, maml_reference
from bench.registry import build, describe, names
from bench.testing import CHECKS
from bench.testing.samples import draw, regression, sinusoid, stationary
from tests.cases import PARTS, PartCase, identify


@pytest.mark.parametrize("case", PARTS, ids=identify)
def test_battery(case: PartCase) -> None:
    assert not [c for c in CHECKS[case.kind](case.table) if not c.passed]


@pytest.mark.parametrize("kind", ["inner", "curvature"])
def test_every_registered_part_has_a_row(kind: str) -> None:
    ours = {name for name in names(kind) if not name.startswith("toy")}
    assert ours == {case.name for case in PARTS if case.kind == kind}


@pytest.mark.parametrize(
    ("table", "optimizer"),
    [
        ({"name": "gradient_descent"}, lambda p: torch.optim.SGD(p, lr=0.03)),
        ({"name": "momentum", "momentum": 0.7}, lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.7)),
        ({"name": "adam", "beta1": 0.8}, lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.8, 0.999))),
        ({"name": "adam", "beta1": 0.0}, lambda p: torch.optim.Adam(p, lr=0.03, betas=(0.0, 0.999))),
    ],
    ids=lambda x: x["name"] if isinstance(x, dict) else "",
)
def test_first_order_solvers_take_torch_optim_steps(table, optimizer) -> None:
    bilevel = sinusoid()
    phi = torch.nn.Parameter(bilevel.start.clone())
    steps = optimizer([phi])
    for _ in range(8):
        phi.grad = bilevel.inner_grad(phi.detach())
        steps.step()
    solver = build("inner", {**table, "steps": 8, "learning_rate": 0.03})
    torch.testing.assert_close(solver(bilevel, bilevel.start).value, phi.detach(), rtol=1e-12, atol=1e-14)


def test_adam_with_a_parameter_that_is_dead_on_the_support_set() -> None:
    """Its gradient is exactly zero at every step: 1 / epsilon must not get into the meta-gradient."""
    bilevel = regression()
    dead = bilevel.tasks.support_x.clone()
    dead[:, :, 0] = 0
    bilevel = Bilevel(bilevel.problem, replace(bilevel.tasks, support_x=dead), bilevel.meta)
    inner = build("inner", {"name": "adam", "steps": 10, "learning_rate": 0.05})

    def outer(meta: torch.Tensor) -> torch.Tensor:
        there = bilevel.at(meta)
        return there.outer_value(inner(there, there.start).value)

    h = 1e-6
    units = torch.eye(8, dtype=torch.float64)
    slopes = torch.stack(
        [(outer(bilevel.meta + h * e) - outer(bilevel.meta - h * e)) / (2 * h) for e in units], dim=1
    )
    assert slopes[:, 0].abs().min() > 1e-3  # alive on the query set
    for backward in ("adjoint", "unrolled", "checkpointed"):
        method = build("method", {"name": "maml", "inner": describe(inner), "backward": backward})
        torch.testing.assert_close(method(bilevel).meta_grad, slopes, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(maml_reference(bilevel, inner).value, slopes, rtol=1e-5, atol=1e-6)


def test_hessian_free_meets_its_tolerance_or_says_no() -> None:
    bilevel = sinusoid()
    first = bilevel.inner_grad(bilevel.start).norm(dim=1)
    for steps in (1, 60):
        solution = build("inner", {"name": "hessian_free", "steps": steps, "tolerance": 1e-8})(
            bilevel, bilevel.start
        )
        left = bilevel.inner_grad(solution.value).norm(dim=1) / first
        assert torch.equal(solution.converged, left <= 1e-8)
    assert solution.converged.all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["hessian_free", "lbfgs", "armijo"])
def test_a_start_whose_gradient_is_rounding_counts_as_converged(name: str, dtype: torch.dtype) -> None:
    """And is left alone; a curved problem away from its minimiser is not, in the same precision."""
    solver = build("inner", {"name": name, "tolerance": 1e-12, "steps": 2})
    bilevel = stationary().to(dtype)
    assert bilevel.inner_grad(bilevel.start).any()
    solution = solver(bilevel, bilevel.start)
    assert solution.converged.all()
    assert torch.equal(solution.value, bilevel.start)
    curved = sinusoid().to(dtype)
    solution = solver(curved, curved.start)
    assert not solution.converged.any()
    assert not torch.equal(solution.value, curved.start)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("name", ["hessian_free", "lbfgs", "armijo"])
def test_a_small_gradient_that_is_no_rounding_is_followed(name: str, scale: float) -> None:
    """Whatever the units of the loss: near the minimiser the gradient is small, and falls further."""
    one = regression()

    @dataclass(frozen=True)
    class Scaled(type(one.problem)):
        def output_loss(self, z, y):
            return scale * super().output_loss(z, y)

    problem = Scaled(**{f.name: getattr(one.problem, f.name) for f in fields(one.problem)})
    bilevel = Bilevel(replace(problem, strength=scale * one.strength), one.tasks, one.meta)
    minimiser = one.inner_solution()
    assert minimiser is not None
    start = minimiser + 1e-3
    first = bilevel.inner_grad(start).norm(dim=1)
    solver = build("inner", {"name": name, "tolerance": 1e-2, "steps": 200})
    solution = solver(bilevel, start)
    assert (bilevel.inner_grad(solution.value).norm(dim=1) < 1e-2 * first).all()


def test_shine_from_a_stationary_start_does_not_divide_by_rounding() -> None:
    bilevel = stationary()
    noise = torch.randn(bilevel.start.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inverse = build("inner", "lbfgs").minimise(bilevel, bilevel.start)[1]
    torch.testing.assert_close(inverse(noise), noise)


def test_adam_stands_still_where_its_squares_underflow() -> None:
    """In half precision that is where gradients are of some use still; the formula would give infinity."""
    adam = build("inner", {"name": "adam", "learning_rate": 1.0, "beta1": 0.0})
    for dtype, least in ((torch.float16, 5e-3), (torch.float32, 1e-21)):
        grad = torch.tensor([[0.3 * least, 3 * least]], dtype=dtype)
        phi, _ = adam.update(torch.zeros_like(grad), grad, adam.init(grad), *adam.schedule(0))
        assert phi[0, 0] == 0
        assert phi[0, 1] < 0


def test_finite_difference_curvature_error_falls_with_the_square_of_its_step() -> None:
    bilevel = sinusoid()
    phi = bilevel.start
    v = torch.randn(phi.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = bilevel.inner_hvp(phi)(v)
    errors = []
    for epsilon in (4e-3, 2e-3, 1e-3):
        curvature = build("curvature", {"name": "finite_difference", "epsilon": epsilon})
        errors.append((curvature(bilevel, phi)(v) - exact).norm().item())
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5


def test_closed_form_declines_without_a_formula() -> None:
    from bench.api import Declined

    with pytest.raises(Declined, match="sinusoid"):
        build("inner", "closed_form")(sinusoid(), sinusoid().start)


@pytest.mark.parametrize("momentum", [0.0, 0.7, None])
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_nesterov_is_its_two_line_recursion(momentum: float | None, steps: int) -> None:
    bilevel, t = sinusoid(), 1.0
    x = y = bilevel.start
    for _ in range(steps):
        after = (1 + (1 + 4 * t**2) ** 0.5) / 2
        beta = (t - 1) / after if momentum is None else momentum
        last, x = x, y - 0.02 * bilevel.inner_grad(y)
        y, t = x + beta * (x - last), after
    solver = build("inner", {"name": "nesterov", "steps": steps, "learning_rate": 0.02, "momentum": momentum})
    torch.testing.assert_close(solver(bilevel, bilevel.start).value, x, rtol=1e-12, atol=1e-14)


def test_nesterov_is_torch_sgd_with_its_parameter_shifted_back() -> None:
    """torch's parameter is the extrapolated y = x + momentum (x - x before) = x - lr momentum buffer."""
    bilevel, lr, momentum = sinusoid(), 0.02, 0.7
    y = torch.nn.Parameter(bilevel.start.clone())
    optimizer = torch.optim.SGD([y], lr=lr, momentum=momentum, nesterov=True)
    for _ in range(8):
        y.grad = bilevel.inner_grad(y.detach())
        optimizer.step()
    x = y.detach() + lr * momentum * optimizer.state[y]["momentum_buffer"]
    solver = build("inner", {"name": "nesterov", "steps": 8, "learning_rate": lr, "momentum": momentum})
    torch.testing.assert_close(solver(bilevel, bilevel.start).value, x, rtol=1e-12, atol=1e-14)


def test_lbfgs_reaches_the_closed_form() -> None:
    bilevel = regression()
    solution = build("inner", {"name": "lbfgs", "steps": 60, "tolerance": 1e-9})(bilevel, bilevel.start)
    wanted = bilevel.inner_solution()
    assert wanted is not None
    assert solution.converged.all()
    torch.testing.assert_close(solution.value, wanted, rtol=1e-8, atol=1e-8)


def test_lbfgs_inverse_is_symmetric_positive_and_meets_its_newest_secant() -> None:
    """B^-1 y = s for the last step, found by solving once to one step less."""
    bilevel = regression()
    solver = [build("inner", {"name": "lbfgs", "steps": k, "tolerance": 0.0, "history": 2}) for k in (4, 5)]
    points = [each(bilevel, bilevel.start).value for each in solver]
    inverse = solver[-1].minimise(bilevel, bilevel.start)[1]
    y = bilevel.inner_grad(points[1]) - bilevel.inner_grad(points[0])
    torch.testing.assert_close(inverse(y), points[1] - points[0], rtol=1e-8, atol=1e-12)
    generator = torch.Generator().manual_seed(4)
    u, v = torch.randn(2, *bilevel.start.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((u * inverse(v)).sum(dim=1), (v * inverse(u)).sum(dim=1))
    assert ((v * inverse(v)).sum(dim=1) > 0).all()


def test_armijo_decreases_monotonically_and_says_whether_it_converged() -> None:
    bilevel = sinusoid()
    first = bilevel.inner_grad(bilevel.start).norm(dim=1)
    values = [bilevel.inner_value(bilevel.start)]
    for steps in range(1, 12):
        solution = build("inner", {"name": "armijo", "steps": steps})(bilevel, bilevel.start)
        values.append(bilevel.inner_value(solution.value))
        assert (values[-1] < values[-2]).all()
    for steps in (3, 400):
        solution = build("inner", {"name": "armijo", "steps": steps})(bilevel, bilevel.start)
        left = bilevel.inner_grad(solution.value).norm(dim=1) / first
        assert torch.equal(solution.converged, left <= 1e-6)
    assert solution.converged.all()


@pytest.mark.parametrize("history", [1, 2, 4])
@pytest.mark.parametrize("sample", [regression, sinusoid])
def test_lbfgs_history_is_each_tasks_own(sample, history: int) -> None:
    """A finished task must not lose its pairs while others go on: SHINE would see it."""
    bilevel = sample(6)
    inner = {"name": "lbfgs", "steps": 40, "tolerance": 1e-3, "history": history}
    method = build("method", {"name": "shine", "inner": inner})
    alone = torch.cat([method(bilevel.one(t)).meta_grad for t in range(6)])
    torch.testing.assert_close(method(bilevel).meta_grad, alone, rtol=1e-9, atol=1e-10)


def test_armijo_search_that_accepts_nothing_stays_and_reports_it() -> None:
    bilevel = regression()
    table = {"name": "armijo", "learning_rate": 1e6, "halvings": 0}
    solution = build("inner", table)(bilevel, bilevel.start)
    assert torch.equal(solution.value, bilevel.start)
    assert (solution.stats["line_search_failures"] == 1).all()
    assert not solution.converged.any()


def test_shine_is_nearer_to_the_implicit_gradient_than_first_order_maml() -> None:
    """Where the support set spans all directions. With fewer points than dimensions L-BFGS never leaves the
    span of the data, its inverse is gamma I outside, and SHINE may be the worse of the two."""
    bilevel = regression(support=20)
    inner = {"name": "lbfgs", "steps": 60, "tolerance": 1e-10, "history": 60}
    got = build("method", {"name": "shine", "inner": inner})(bilevel)
    first_order = build("method", {"name": "fomaml", "inner": inner})(bilevel).meta_grad
    wanted = implicit_reference(bilevel).value
    assert got.converged.all()
    cosine = torch.nn.functional.cosine_similarity
    assert (cosine(got.meta_grad, wanted) > cosine(first_order, wanted)).all()
    assert bilevel.calls.inner_hvps == 0


def test_gauss_newton_is_the_dense_product_of_jacobians() -> None:
    """J' (2 / n) J + strength I for the mean squared error of n outputs."""
    bilevel = sinusoid()
    phi, problem = bilevel.start, bilevel.problem
    v = torch.randn(phi.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = []
    for p, x, one in zip(phi, bilevel.tasks.support_x, v, strict=True):
        jacobian = torch.func.jacrev(lambda q, x=x: problem.outputs(q, x).flatten())(p)
        rows.append(2 / len(jacobian) * jacobian.mT @ (jacobian @ one) + bilevel.strength * one)
    got = build("curvature", "gauss_newton")(bilevel, phi)(v)
    torch.testing.assert_close(got, torch.stack(rows), rtol=1e-10, atol=1e-12)
    assert (got - bilevel.inner_hvp(phi)(v)).norm() > 1e-3 * got.norm()  # the residuals do not vanish


def test_gauss_newton_of_cross_entropy_is_positive_semidefinite() -> None:
    network = {"name": "mlp", "hidden": [2], "activation": "tanh"}
    bilevel = draw(build("problem", {"name": "glyphs", "network": network, "ways": 3, "strength": 0.0}), 2)
    phi = bilevel.start
    product = build("curvature", "gauss_newton")(bilevel, phi)
    generator = torch.Generator().manual_seed(6)
    for _ in range(20):
        v = torch.randn(phi.shape, generator=generator, dtype=torch.float64)
        assert ((v * product(v)).sum(dim=1) >= -1e-12).all()
