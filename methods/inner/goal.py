"""Whether a minimisation starts at its end: a tolerance relative to pure rounding could never be met."""

import torch

from bench.api import Bilevel, PerTask, Vectors


def at_rest(bilevel: Bilevel, start: Vectors, grad: Vectors) -> PerTask:
    """Whether ``grad`` = grad G(start) is no more than rounding: |grad| <= 8 eps |Hessian start|.

    What rounding every entry of ``start`` changes the gradient by, in whatever units G and phi are. The
    product is a difference of gradients: one gradient, and only where the gradient is small enough to ask.
    In half precision the factor is 1: eight of its eps are a share that a gradient worth following may have.
    """
    eps = torch.finfo(start.dtype).eps
    size, norm = torch.linalg.vector_norm(start, dim=1), torch.linalg.vector_norm(grad, dim=1)
    h = eps**0.5
    small = norm <= h * max(1.0, bilevel.strength) * (1 + size)
    if not small.any():
        return small
    product = (bilevel.inner_grad(start * (1 + h)) - grad) / h
    rounding = (8 if eps < 1e-5 else 1) * eps * torch.linalg.vector_norm(product, dim=1)
    return small & (norm <= rounding)
