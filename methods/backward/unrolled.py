import torch

from bench.api import Bilevel, FirstOrderSolver, Vectors


def unrolled(bilevel: Bilevel, solver: FirstOrderSolver) -> tuple[Vectors, Vectors]:
    """One autograd graph through all K steps, as most MAML code does.

    Returns the meta-gradient and the adapted parameters. Memory K times the activations of a gradient and
    of its derivative; costs K gradients, and K Hessian products inside the backward pass.
    """
    with torch.enable_grad():
        meta = bilevel.start.detach().clone().requires_grad_()
        adapted = solver(bilevel.at(meta), meta).value
        (meta_grad,) = torch.autograd.grad(
            adapted, meta, bilevel.outer_grad(adapted.detach()), materialize_grads=True
        )
    bilevel.calls.inner_hvps += solver.steps
    return meta_grad, adapted.detach()
