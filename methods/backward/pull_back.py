import torch

from bench.api import FirstOrderSolver, State, Vectors


def pull_back_init(solver: FirstOrderSolver, start: Vectors, state_bar: State) -> Vectors:
    """The vjp of ``solver.init`` at ``start``: zero for every optimiser whose state starts at constants."""
    with torch.enable_grad():
        leaf = start.detach().requires_grad_()
        pairs = [(s, b) for s, b in zip(solver.init(leaf), state_bar, strict=True) if s.requires_grad]
        if not pairs:
            return torch.zeros_like(start)
        states, bars = zip(*pairs, strict=True)
        return torch.autograd.grad(states, leaf, bars, materialize_grads=True)[0]
