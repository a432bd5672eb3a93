"""Matrix products of one task: which loops, and which matrices have to be transposed before."""

from dataclasses import dataclass

import torch

from bench.compiled.taskwise.terms import Load

LANES = {torch.float32: 16, torch.float64: 8}  # of the widest registers; narrower ones rank alike


@dataclass(frozen=True)
class Product:
    """c[m][n] = sum over k of a[m][k] b[k][n], in the loops of `runtime.h`.

    With ``dots``, the terms of b lie side by side and n has one value; else rows of b and of c do.
    ``turned``: the two matrices changed places, for (A B)' = B' A'.
    """

    left: Load
    right: Load
    sizes: tuple[int, int, int]  # of m, n, k
    strides: tuple[int, int, int]  # a's of m and k, b's of k
    dots: bool
    turned: bool


def product(a: Load, b: Load) -> Product | None:
    """The loops for the matrices of the last two axes; None where ``b`` has to be transposed before."""
    (m, k), n = a.at.shape[-2:], b.at.shape[-1]
    (am, ak), (bk, bn) = a.at.stride()[-2:], b.at.stride()[-2:]
    # The stride of an axis with one value is free.
    am, bn = (1 if m == 1 else am), (1 if n == 1 else bn)
    ak, bk = (1, 1) if k == 1 else (ak, bk)
    if ak == bk == 1 and ((n == 1 and am != 1) or (m == 1 and bn != 1)):
        if n == 1:
            return Product(a, b, (m, 1, k), (am, 1, 1), dots=True, turned=False)
        return Product(b, a, (n, 1, k), (bn, 1, 1), dots=True, turned=True)
    lanes = LANES[a.dtype]
    straight, turned = -(-n // lanes) * m, -(-m // lanes) * n  # vectors of the result
    if am == 1 and (bn != 1 or turned < straight):
        return Product(b, a, (n, m, k), (bn, bk, ak), dots=False, turned=True)
    if bn == 1:
        return Product(a, b, (m, n, k), (am, ak, bk), dots=False, turned=False)
    return None
