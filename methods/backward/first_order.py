from bench.api import Declined, FirstOrderSolver, InnerSolver
from bench.registry import name_of


def first_order(inner: InnerSolver) -> FirstOrderSolver:
    """The inner solver as one that can be differentiated step by step; `Declined` where it is none."""
    if not isinstance(inner, FirstOrderSolver):
        raise Declined(f"inner solver '{name_of(inner)}' cannot be differentiated step by step")
    return inner
