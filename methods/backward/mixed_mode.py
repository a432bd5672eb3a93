from bench.api import Bilevel, FirstOrderSolver, Vectors
from methods.backward.sweep import sweep


def mixed_mode(bilevel: Bilevel, solver: FirstOrderSolver) -> tuple[Vectors, Vectors]:
    """The adjoint sweep, each product by forward over reverse mode (MixFlow-MG, Kemaev et al. 2025).

    Returns the meta-gradient and the adapted parameters. No graph of a gradient is ever kept: 2 K vectors
    (iterates and their gradients), one gradient and its tangents. Costs 2 K gradients and K products.
    """
    return sweep(bilevel, solver, forward_over_reverse=True)
