from bench.api import Bilevel, FirstOrderSolver, Vectors
from methods.backward.sweep import sweep


def adjoint(bilevel: Bilevel, solver: FirstOrderSolver) -> tuple[Vectors, Vectors]:
    """Reverse sweep over the stored iterates: one Hessian product a step, no graph across steps.

    Returns the meta-gradient and the adapted parameters. Memory K times (parameters + optimiser state);
    costs 2 K gradients (forward, and again in the linearisation) and K products.
    """
    return sweep(bilevel, solver)
