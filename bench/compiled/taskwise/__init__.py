"""A second lowering, for small tasks: C++ for one task with all sizes as constants, one task after another.

What lies between the operations of a task stays in the first caches, and products know their sizes; torch's
compiler takes each operation for all tasks at once, through memory, and calls a matrix product made for large
ones. `plan` finds the steps, `emit` writes them, `bench.native` compiles; `lower` is the door.
"""

from bench.compiled.taskwise.call import lower
from bench.compiled.taskwise.terms import UnsupportedError

__all__ = ["UnsupportedError", "lower"]
