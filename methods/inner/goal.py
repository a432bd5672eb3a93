"""Where a minimisation may stop: a tolerance relative to pure rounding could never be met."""

import torch

from bench.api import Bilevel, PerTask, Vectors


def goal(bilevel: Bilevel, start: Vectors, grad: Vectors, tolerance: float) -> PerTask:
    """The |grad G| at which a task has converged: ``tolerance`` |grad G(start)|, ``grad`` = grad G(start).

    Infinite where ``grad`` is no more than rounding: |grad| <= 8 eps |Hessian start|, which is what rounding
    every entry of ``start`` changes the gradient by, in whatever units G and phi are. The product is a
    difference of gradients: one gradient, and only where the gradient is small enough to ask. In half
    precision the factor is 1: eight of its eps are a share that a gradient worth following may have.
    """
    eps = torch.finfo(start.dtype).eps
    size, norm = torch.linalg.vector_norm(start, dim=1), torch.linalg.vector_norm(grad, dim=1)
    h = eps**0.5
    rest = norm <= h * max(1.0, bilevel.strength) * (1 + size)
    if rest.any():
        product = (bilevel.inner_grad(start * (1 + h)) - grad) / h
        rounding = (8 if eps < 1e-5 else 1) * eps * torch.linalg.vector_norm(product, dim=1)
        rest = rest & (norm <= rounding)
    return torch.where(rest, torch.inf, tolerance * norm)
