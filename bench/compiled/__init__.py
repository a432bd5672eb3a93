"""Compiled kernels for any problem's loss: `Engine` is the door.

The unit of compilation is one iteration (an inner step, an adjoint step, an iteration of CG), never a loop,
so that the time to compile does not grow with the number of steps and one kernel serves a whole sweep. The
function, all derivatives in it, is traced to ATen operations (`trace`), lowered to machine code (`lower`) and
compared with itself in eager float64 (`check`) before its first use.
"""

from bench.compiled.engine import Engine
from bench.compiled.kernel import untraceable

__all__ = ["Engine", "untraceable"]
