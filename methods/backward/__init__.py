"""Ways to differentiate the query loss through K inner steps: same gradient, other memory and time."""

from methods.backward.adjoint import adjoint
from methods.backward.checkpointed import checkpointed
from methods.backward.mixed_mode import mixed_mode
from methods.backward.unrolled import unrolled

__all__ = ["adjoint", "checkpointed", "mixed_mode", "unrolled"]
