"""Ways to differentiate the query loss through K inner steps: same gradient, other memory and time."""

from methods.backward.adjoint import adjoint
from methods.backward.checkpointed import checkpointed
from methods.backward.unrolled import unrolled

__all__ = ["adjoint", "checkpointed", "unrolled"]
