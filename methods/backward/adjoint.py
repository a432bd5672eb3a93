from bench.api import Bilevel, Curvature, FirstOrderSolver, Vectors
from methods.backward.sweep import sweep


def adjoint(
    bilevel: Bilevel,
    solver: FirstOrderSolver,
    ahead: Bilevel | None = None,
    curvature: Curvature | None = None,
) -> tuple[Vectors, Vectors]:
    """Reverse sweep over the stored iterates: one Hessian product a step, no graph across steps.

    Returns the meta-gradient and the adapted parameters. Memory K times (parameters + optimiser state);
    costs 2 K gradients (forward, and again in the linearisation) and K products. The inner steps are taken on
    ``ahead``, in its precision; the products are those of ``curvature``, for which the gradients of the way
    forward are kept too.
    """
    return sweep(bilevel, solver, ahead=ahead, curvature=curvature)
