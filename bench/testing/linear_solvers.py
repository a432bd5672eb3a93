"""The battery of linear solvers."""

from typing import Any

import torch

from bench.api import LinearSolver
from bench.testing.battery import Battery, battery
from bench.testing.samples import product, system


@battery
def check_linear_solver(run: Battery, plugin: LinearSolver | str | dict[str, Any]) -> None:
    """The battery of a linear solver, on random symmetric positive definite and indefinite systems."""
    solver = run.construct("linear", plugin)
    if solver is None:
        return
    for condition in (3.0, 1e3):
        matrix, rhs = system(condition)
        kept = rhs.clone()
        solution = run.attempt(
            f"runs at condition number {condition:g}", lambda m=matrix, b=rhs: solver(product(m), b)
        )
        if solution is None:
            continue
        run.add(f"value is [T, P] ({condition:g})", solution.value.shape == rhs.shape)
        run.add(f"right-hand side untouched ({condition:g})", torch.equal(kept, rhs))
        missing = {"residual", "iterations"} - set(solution.stats)
        run.add(
            f"reports residual and iterations ({condition:g})", not missing, f"missing: {missing or 'none'}"
        )
        if missing:
            continue
        true = (rhs - product(matrix)(solution.value)).norm(dim=1) / rhs.norm(dim=1)
        gap = (true - solution.stats["residual"]).abs().max().item()
        run.add(f"residual is that of the returned iterate ({condition:g})", gap <= 1e-9, f"off by {gap:.1e}")
        tolerance = getattr(solver, "tolerance", 0.0) or torch.inf  # 0 asks for all iterations
        honest = bool((~solution.converged | (true <= tolerance * (1 + 1e-9))).all())
        run.add(
            f"converged means that the tolerance is met ({condition:g})", honest, f"residuals {true.tolist()}"
        )
        scaled = solver(product(matrix), 1024 * rhs).value
        run.close(
            f"scaling the right-hand side scales x ({condition:g})", scaled, 1024 * solution.value, 1e-12
        )
        each = [solver(product(matrix[t : t + 1]), rhs[t : t + 1]).value for t in range(len(rhs))]
        run.close(f"tasks do not mix ({condition:g})", torch.cat(each), solution.value, 1e-8)
    matrix, rhs = system(10.0)
    zero = run.attempt("zero right-hand side", lambda: solver(product(matrix), torch.zeros_like(rhs)))
    run.add("zero right-hand side gives zero", zero is not None and not zero.value.any())
    matrix, rhs = system(10.0, indefinite=True)
    solution = run.attempt("indefinite system", lambda: solver(product(matrix), rhs))
    if solution is not None:
        true = (rhs - product(matrix)(solution.value)).norm(dim=1) / rhs.norm(dim=1)
        honest = bool((~solution.converged | (true <= 1e-2)).all())
        run.add("indefinite system: solved, or says that it is not", honest, f"residuals {true.tolist()}")
