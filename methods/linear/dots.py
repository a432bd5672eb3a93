"""Inner products, and what is made of them, in another precision than the vectors."""

import torch

from bench.api import PerTask, Vectors


def dot(a: Vectors, b: Vectors, dots: torch.dtype | None) -> PerTask:
    """a'b of every task, multiplied and summed in ``dots``; None: in the dtype of the vectors."""
    return (a * b if dots is None else a.to(dots) * b.to(dots)).sum(dim=1)


def times(scalar: PerTask, v: Vectors, dots: torch.dtype | None) -> Vectors:
    """scalar v in v's dtype."""
    return (scalar if dots is None else scalar.to(v.dtype))[:, None] * v
