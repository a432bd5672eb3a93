"""The batteries of linear solvers and of preconditioners."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.api import LinearSolver, Preconditioner, Solution
from bench.registry import is_stochastic
from bench.testing.battery import Battery, battery
from bench.testing.samples import draws, product, system
from bench.testing.variants import core, variant

EPS32 = torch.finfo(torch.float32).eps
ALL = (0, 1, 2)  # the tasks of `system`
SCALES = (2.0**-40, 2.0**40)  # powers of two, so that scaling rounds nothing


def solve(
    solver: Any,
    matrix: Tensor,
    rhs: Tensor,
    tasks: Sequence[int] = ALL,
    seed: int = 0,
    start: Tensor | None = None,
    calls: list[int] | None = None,
) -> Solution:
    """The solution for these tasks, each with its own noise; products, in A's dtype, noted in ``calls``."""
    apply = product(matrix[list(tasks)])

    def matvec(v: Tensor) -> Tensor:
        if calls is not None:
            calls.append(1)
        return apply(v.to(matrix.dtype)).to(v.dtype)

    b = rhs[list(tasks)]
    return solver(matvec, b, start=start, noise=draws(tasks, b, seed))


def relative_residual(matrix: Tensor, rhs: Tensor, x: Tensor) -> Tensor:
    return (rhs - product(matrix)(x)).norm(dim=1) / rhs.norm(dim=1)


@battery
def check_linear_solver(run: Battery, plugin: LinearSolver | str | dict[str, Any]) -> None:
    """The battery of a linear solver, on random symmetric positive definite and indefinite systems.

    On singular ones too, on products that are not finite or have squares that are not, and in float32. A
    solver with a `tolerance` is also run at tolerances other than its own, one with `iterations` with more
    of them; one without is checked as the direct solver that it is. A class with ``krylov = True``
    promises the solution, in exact arithmetic, after P iterations.
    """
    solver = run.construct("linear", plugin)
    if solver is None:
        return
    iterative = hasattr(core(solver), "tolerance") and hasattr(core(solver), "iterations")
    versions = [("", solver)]
    if iterative:
        versions.append((", tolerance 1e-3", variant(solver, tolerance=1e-3)))
    for condition in (3.0, 1e3, 1e6):
        for label, version in versions:
            _solution(run, version, condition, f"({condition:g}{label})")
    _float32(run, solver, iterative)
    _products(run, solver)
    _range(run, solver)
    _not_finite(run, solver)
    if core(solver).krylov:
        _termination(run, solver)
    matrix, rhs = system(10.0)
    zero = run.attempt("zero right-hand side", lambda: solve(solver, matrix, torch.zeros_like(rhs)))
    run.add("zero right-hand side gives zero", zero is not None and not zero.value.any())
    if iterative:
        _identity(run, solver)
        _warm_start(run, solver)
        _early_stop(run, solver)
    # A tolerance of 0 counts as met, so that it is a positive one that has to be honest.
    allowed = max(1e-2, getattr(core(solver), "tolerance", 0))
    asked = variant(solver, tolerance=allowed)
    for label, version, (matrix, rhs) in (
        ("indefinite", asked, system(10.0, indefinite=True)),
        ("singular (2)", variant(asked, iterations=40), system(10.0, size=2, singular=True)),
        ("singular (12)", variant(asked, iterations=40), system(10.0, singular=True)),
    ):
        solution = run.attempt(f"{label} system", lambda v=version, m=matrix, b=rhs: solve(v, m, b))
        if solution is not None:
            true = relative_residual(matrix, rhs, solution.value)
            _honest(run, f"{label} system: solved, or says that it is not", solution, true, allowed)


def _honest(run: Battery, name: str, solution: Solution, true: Tensor, allowed: Tensor | float) -> None:
    run.add(name, bool((~solution.converged | (true <= allowed)).all()), f"residuals {true.tolist()}")


def _solution(run: Battery, solver: Any, condition: float, label: str) -> None:
    matrix, rhs = system(condition)
    kept = rhs.clone()
    solution = run.attempt(f"runs at condition number {label}", lambda: solve(solver, matrix, rhs))
    if solution is None:
        return
    run.add(f"value is [T, P] {label}", solution.value.shape == rhs.shape)
    run.add(f"right-hand side untouched {label}", torch.equal(kept, rhs))
    missing = {"residual", "iterations"} - set(solution.stats)
    run.add(f"reports residual and iterations {label}", not missing, f"missing: {missing or 'none'}")
    if missing:
        return
    x, true = solution.value, relative_residual(matrix, rhs, solution.value)
    rounding = 1e-14 * (1 + x.norm(dim=1) / rhs.norm(dim=1))  # ||A|| = 1
    gap = (true - solution.stats["residual"]).abs()
    close = bool((gap <= 1e-9 * true + rounding).all())
    run.add(f"residual is that of the returned iterate {label}", close, f"off by {gap.max().item():.1e}")
    tolerance = getattr(core(solver), "tolerance", 0.0) or torch.inf  # 0 asks for all iterations
    allowed = tolerance * (1 + 1e-9) + rounding
    _honest(run, f"converged means that the tolerance is met {label}", solution, true, allowed)
    for scale in SCALES:
        scaled = solve(solver, matrix, scale * rhs)
        run.close(
            f"scaling the right-hand side by {scale:.0e} scales x {label}", scaled.value / scale, x, 1e-12
        )
        same = torch.equal(scaled.stats["iterations"], solution.stats["iterations"])
        run.add(f"scaling by {scale:.0e} leaves the iterations {label}", same)
    # Rounding may depend on the batch and is multiplied by the condition number.
    allowed = max(1e-8, 1e-11 * condition)
    each = [solve(solver, matrix, rhs, [t]).value for t in ALL]
    run.close(f"tasks do not mix {label}", torch.cat(each), x, allowed)
    order = [2, 0, 1]
    run.close(f"order of the tasks {label}", solve(solver, matrix, rhs, order).value, x[order], allowed)
    again, other = (solve(solver, matrix, rhs, seed=seed).value for seed in (0, 1))
    run.add(f"the same call gives the same bits {label}", torch.equal(again, x))
    drawn, changed = is_stochastic(solver), not torch.equal(other, x)
    run.add(f"noise changes x if and only if stochastic {label}", drawn == changed, f"{drawn=}, {changed=}")


def _float32(run: Battery, solver: Any, iterative: bool) -> None:
    """In float32 a recursive residual parts from the true one, by far on an ill-conditioned system."""
    versions = [("", variant(solver, iterations=min(300, getattr(core(solver), "iterations", 0))))]
    if iterative:
        versions.append((", tolerance 1e-3", variant(solver, tolerance=1e-3, iterations=300)))
    for condition in (1e3, 1e6):
        matrix, rhs = system(condition)
        # Products rounded once and a largest entry of 1: all other rounding is the solver's.
        rhs = (rhs / rhs.abs().amax(dim=1, keepdim=True)).float()
        for label, version in versions:
            label = f"({condition:g}, float32{label})"
            name = f"runs at condition number {label}"
            solution = run.attempt(name, lambda v=version, m=matrix, b=rhs: solve(v, m, b))
            if solution is None:
                continue
            x, b, tolerance = solution.value.double(), rhs.double(), getattr(core(version), "tolerance", 0.0)
            true = relative_residual(matrix, b, x)
            rounding = 10 * EPS32 * (1 if tolerance > 0 else 1 + x.norm(dim=1) / b.norm(dim=1))
            gap = (true - solution.stats["residual"]).abs()
            close, detail = bool((gap <= 1e-3 * true + rounding).all()), f"off by {gap.max().item():.1e}"
            run.add(f"residual is that of the returned iterate {label}", close, detail)
            allowed = (tolerance or torch.inf) + rounding
            _honest(run, f"converged means that the tolerance is met {label}", solution, true, allowed)


def _range(run: Battery, solver: Any) -> None:
    """A of a size whose squares overflow or underflow in float32."""
    asked = variant(solver, tolerance=1e-3, iterations=40)
    for scale in (2.0**-66, 2.0**66):
        matrix, rhs = (tensor.float() for tensor in system(10.0))
        name = f"A times {scale:.0e} in float32"
        solution = run.attempt(name, lambda m=scale * matrix, b=rhs: solve(asked, m, b))
        if solution is not None:
            true = relative_residual(scale * matrix.double(), rhs.double(), solution.value.double())
            _honest(run, f"{name}: solved, or says that it is not", solution, true, 1e-2)
            solved = bool(solution.converged.all()) or not core(solver).krylov
            run.add(f"{name}: solved by a Krylov method", solved, f"residuals {true.tolist()}")


def _not_finite(run: Battery, solver: Any) -> None:
    fewer = variant(solver, iterations=min(40, getattr(core(solver), "iterations", 0)))
    for version in (fewer, variant(fewer, tolerance=1e-3)):
        matrix, rhs = system(10.0)
        clean = solve(version, matrix, rhs).value[[0, 2]]
        for value in (torch.nan, torch.inf):
            matrix[1, 0, 0] = value
            name = f"a task whose products hold {value}"
            solution = run.attempt(name, lambda v=version, m=matrix, b=rhs: solve(v, m, b))
            if solution is not None:
                run.add(f"{name} is not converged", not solution.converged[1])
                run.close(f"{name} leaves the others alone", solution.value[[0, 2]], clean, 1e-12)


def _products(run: Battery, solver: Any) -> None:
    matrix, rhs = system(10.0)
    for version in (solver, variant(solver, tolerance=0.0)):
        calls: list[int] = []
        declared = version.products(rhs.shape[1])
        if declared is not None:
            run.attempt("products are counted", lambda v=version, c=calls: solve(v, matrix, rhs, calls=c))
            run.add("declared products are those taken", declared == len(calls), f"{declared}, {len(calls)}")


def _termination(run: Battery, solver: Any) -> None:
    matrix, rhs = system(3.0)
    asked = variant(solver, tolerance=0.0, iterations=rhs.shape[1])
    solution = run.attempt("exact after P iterations", lambda: solve(asked, matrix, rhs))
    if solution is not None:
        worst = relative_residual(matrix, rhs, solution.value).max().item()
        run.add("exact after P iterations", worst <= 1e-8, f"residual {worst:.1e}")


def _identity(run: Battery, solver: Any) -> None:
    _, rhs = system(3.0)
    # One step suffices on a multiple of I: any for a Krylov method, 1 / step for a fixed step length.
    step = getattr(core(solver), "step", 1.0)
    matrix = torch.eye(rhs.shape[1], dtype=rhs.dtype).expand(len(rhs), -1, -1) / step
    solution = run.attempt("A = I", lambda: solve(variant(solver, tolerance=1e-6), matrix, rhs))
    if solution is not None:
        steps = solution.stats["iterations"].tolist()
        good = bool(solution.converged.all()) and max(steps) <= 1
        run.add("a multiple of I takes one step", good, f"iterations {steps}")


def _warm_start(run: Battery, solver: Any) -> None:
    matrix, rhs = system(10.0)
    x = torch.linalg.solve(matrix, rhs)
    asked = variant(solver, tolerance=1e-6)
    solution = run.attempt("warm start", lambda: solve(asked, matrix, rhs, start=x))
    if solution is not None:
        steps = solution.stats["iterations"].tolist()
        good = bool(solution.converged.all()) and max(steps) == 0
        run.add("a start at the solution takes no step", good, f"iterations {steps}")
        run.close("a start at the solution is kept", solution.value, x, 1e-12)


def _early_stop(run: Battery, solver: Any) -> None:
    name, (matrix, rhs) = "stops at the first iterate that meets the tolerance, and returns it", system(3.0)
    for t in ALL:
        asked = variant(solver, tolerance=1e-2, iterations=2000)
        full = run.attempt(name, lambda a=asked, t=t: solve(a, matrix, rhs, [t]))
        if full is None:
            return
        used, true = (
            int(full.stats["iterations"]),
            relative_residual(matrix[[t]], rhs[[t]], full.value).item(),
        )
        if not full.converged.all():
            run.add(name, used == 2000 or true > 1e-2, f"not converged after {used}: {true:.1e}")
            continue
        detail, good = f"{used} iterations, residual {true:.1e}", true <= 1e-2 * (1 + 1e-9)
        if used > 1:
            fewer = solve(variant(asked, iterations=used - 1), matrix, rhs, [t])
            before = relative_residual(matrix[[t]], rhs[[t]], fewer.value).item()
            good = good and before > 1e-2 and not fewer.converged.any()
            detail += f", one iteration fewer {before:.1e}"
        run.add(name, good, detail)


@battery
def check_preconditioner(run: Battery, plugin: Preconditioner | str | dict[str, Any]) -> None:
    """The battery of a preconditioner: a linear, symmetric positive definite map of each task by itself."""
    preconditioner = run.construct("preconditioner", plugin)
    if preconditioner is None:
        return
    for condition, indefinite in ((3.0, False), (1e3, False), (1e6, False), (10.0, True)):
        matrix, rhs = system(condition, indefinite)
        label = f"({condition:g}{', indefinite' if indefinite else ''})"

        def made(tasks: Sequence[int] = ALL, seed: int = 0, matrix: Tensor = matrix) -> Tensor:
            return _matrix_of(preconditioner, matrix[list(tasks)], draws(tasks, matrix[list(tasks), 0], seed))

        inverse = run.attempt(f"runs {label}", made)
        if inverse is None:
            continue
        run.close(f"symmetric {label}", inverse.mT, inverse, 1e-10)
        least = torch.linalg.eigvalsh((inverse + inverse.mT) / 2)[:, 0].tolist()
        run.add(f"positive definite {label}", min(least) > 0, f"smallest eigenvalues {least}")
        apart = torch.cat([made([t]) for t in ALL])
        run.close(f"tasks do not mix {label}", apart, inverse, 1e-8)
        run.add(f"the same call gives the same bits {label}", torch.equal(made(), inverse))
        drawn, changed = is_stochastic(preconditioner), not torch.equal(made(seed=1), inverse)
        run.add(f"noise changes it only if stochastic {label}", drawn or not changed)
    matrix, rhs = system(10.0)
    clean, lost = _matrix_of(preconditioner, matrix, draws(ALL, rhs)), matrix.clone()
    lost[1, 0, 0] = torch.nan
    name = "a task whose products hold nan leaves the others alone"
    built = run.attempt(name, lambda: _matrix_of(preconditioner, lost, draws(ALL, rhs)))
    run.add(name, built is not None and torch.allclose(built[[0, 2]], clean[[0, 2]], rtol=1e-12))
    calls: list[int] = []
    apply = product(matrix)
    declared = preconditioner.products(rhs.shape[1])
    build = preconditioner(lambda v: calls.append(1) or apply(v), rhs, draws(ALL, rhs))
    build(rhs)
    run.add("declared products are those taken", declared == len(calls), f"{declared}, {len(calls)}")


def _matrix_of(preconditioner: Any, matrix: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
    apply = preconditioner(product(matrix), matrix[:, 0], noise)
    return torch.stack(
        [apply(row.expand(len(matrix), -1)) for row in torch.eye(matrix.shape[-1]).to(matrix)], -1
    )
