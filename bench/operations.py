"""The third meter: how many operators a call runs, and how many floating-point operations they hold.

Clocks depend on the machine and its load, these counts on the program and torch's version alone.
"""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class _Operators(TorchDispatchMode):
    """Counts what reaches torch's dispatcher below autograd and vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(run: Callable[[], object]) -> dict[str, int]:
    """The ATen `operators` that one call of ``run`` executes, and the `flops` of another call.

    Operators are counted forward and backward, views and copies included; one on a whole batch counts once,
    so the count is the overhead of eager mode. FLOPs are those of matrix products and convolutions (and
    attention), by the shapes of their arguments; elementwise operations, reductions, factorisations and
    solvers of linear systems count as none.
    Not seen by either: what a compiled graph runs inside, what is computed outside torch, and work in the
    interpreter between two operators.
    """
    with _Operators() as operators:
        run()
    with FlopCounterMode(display=False) as flops:
        run()
    return {"operators": operators.count, "flops": flops.get_total_flops()}
