"""Products with the curvature of the inner objective at a point, of every task at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.tasks import Vectors


class HessianProduct:
    """The linear map v -> (Hessian of G at phi) v; ``gradient`` comes with the linearisation.

    Reverse over reverse: ``graph`` is the gradient of the losses in G as a function of the leaf ``phi``,
    built once for all products. ``spend`` is called once a product.
    """

    def __init__(self, phi: Vectors, graph: Vectors, pull: Vectors, strength: float, spend: Callable):
        self._phi, self._graph, self._strength, self._spend = phi, graph, strength, spend
        self.gradient: Vectors = graph.detach() + pull

    def __call__(self, v: Vectors) -> Vectors:
        self._spend()
        product = self._strength * v
        if self._graph.requires_grad:  # false where the loss is linear
            (hv,) = torch.autograd.grad(self._graph, self._phi, v, retain_graph=True, materialize_grads=True)
            product = product + hv
        return product


class GaussNewtonProduct:
    """v -> J' (Hessian of the loss in the outputs) J v + strength v, J the Jacobian of the outputs z in phi.

    ``outputs`` is [T, ...] as a function of the leaf ``phi``, ``loss`` the batched loss of given outputs. J v
    is the derivative of the vector-Jacobian product in its (dummy) vector.
    """

    def __init__(
        self,
        phi: Vectors,
        outputs: Tensor,
        loss: Callable[[Tensor], Tensor],
        strength: float,
        spend: Callable,
    ):
        self._phi, self._outputs, self._strength, self._spend = phi, outputs, strength, spend
        with torch.enable_grad():
            self._z = outputs.detach().requires_grad_()
            total = loss(self._z).sum()
            (self._slope,) = torch.autograd.grad(total, self._z, create_graph=True, materialize_grads=True)
            self._dummy = torch.zeros_like(outputs).requires_grad_()
            (self._pulled,) = torch.autograd.grad(
                outputs, phi, self._dummy, create_graph=True, materialize_grads=True
            )

    def __call__(self, v: Vectors) -> Vectors:
        self._spend()
        (jv,) = torch.autograd.grad(self._pulled, self._dummy, v, retain_graph=True, materialize_grads=True)
        if self._slope.requires_grad:
            (hjv,) = torch.autograd.grad(self._slope, self._z, jv, retain_graph=True, materialize_grads=True)
        else:
            hjv = torch.zeros_like(jv)
        (product,) = torch.autograd.grad(
            self._outputs, self._phi, hjv, retain_graph=True, materialize_grads=True
        )
        return product + self._strength * v


class FusedProduct:
    """`HessianProduct` of a problem with an engine: one kernel a product, or for a whole loop body around it.

    ``kernel`` makes kernels of functions of the `Bilevel`, ``linearise`` the product in eager mode, where an
    engine cannot do better. ``gradient`` is the gradient of G at ``phi``.
    """

    def __init__(self, kernel: Callable, linearise: Callable[[Vectors], HessianProduct], phi: Vectors):
        self._kernel, self._linearise, self._phi = kernel, linearise, phi.detach()
        self._linearised: HessianProduct | None = None
        self._product = self.fused(_apply)

    def __call__(self, v: Vectors) -> Vectors:
        return self._product(v)

    @property
    def gradient(self) -> Vectors:
        return self._eager().gradient

    def fused(self, function: Callable, *static: Any) -> Callable:
        """``function(self, *static, *arguments)`` as a function of the arguments, as one kernel."""

        def eager(*arguments: Any) -> Any:
            return function(self._eager(), *static, *arguments)

        return self._kernel(_AtProduct(function, static), given=(self._phi,), eager=eager)

    def _eager(self) -> HessianProduct:
        if self._linearised is None:
            self._linearised = self._linearise(self._phi)
        return self._linearised


def fused(matvec: Callable[[Vectors], Vectors], function: Callable, *static: Any) -> Callable:
    """``function(matvec, *static, *arguments)`` as a function of the arguments: the body of a solver's loop.

    One kernel where ``matvec`` is a product that an engine compiles; see `Bilevel.fused`.
    """
    if isinstance(matvec, FusedProduct):
        return matvec.fused(function, *static)
    return partial(function, matvec, *static)


def _apply(matvec: Callable[[Vectors], Vectors], v: Vectors) -> Vectors:
    """One Hessian product."""
    return matvec(v)


@dataclass(frozen=True)
class _AtProduct:
    """``function`` of the product at ``phi``, as a function of a `Bilevel` that equal functions share."""

    function: Callable
    static: tuple[Any, ...]

    def __call__(self, bilevel: Any, phi: Vectors, *arguments: Any) -> Any:
        return self.function(bilevel.linearise(phi), *self.static, *arguments)
