"""The conformance battery: what every plugin must satisfy, ours and other people's.

Each `check_*` builds small float64 problems, runs the plugin and returns one `Check` per property. A property
that raises is a failed check, so a battery always ends. `metabench check` prints them; a third party calls
them from its own tests: ``assert all(c.passed for c in check_method("my-method"))``.
"""

from collections.abc import Callable

from bench.testing.battery import Check
from bench.testing.linear_solvers import check_linear_solver, check_preconditioner
from bench.testing.methods import check_method
from bench.testing.outer import check_outer_optimizer
from bench.testing.parts import check_curvature, check_inner_solver
from bench.testing.problems import check_problem

__all__ = [
    "CHECKS",
    "Check",
    "check_curvature",
    "check_inner_solver",
    "check_linear_solver",
    "check_method",
    "check_outer_optimizer",
    "check_preconditioner",
    "check_problem",
]

CHECKS: dict[str, Callable[..., list[Check]]] = {
    "method": check_method,
    "linear": check_linear_solver,
    "preconditioner": check_preconditioner,
    "problem": check_problem,
    "inner": check_inner_solver,
    "curvature": check_curvature,
    "outer": check_outer_optimizer,
}
