"""Ways to differentiate through K inner steps: same gradient, other memory and time."""

from methods.backward.adjoint import adjoint
from methods.backward.checkpointed import checkpointed
from methods.backward.first_order import first_order
from methods.backward.mixed_mode import mixed_mode
from methods.backward.push_forward import push_forward
from methods.backward.sweep import sweep
from methods.backward.unrolled import unrolled

__all__ = ["adjoint", "checkpointed", "first_order", "mixed_mode", "push_forward", "sweep", "unrolled"]
