"""The two true meta-gradients, in float64 and independent of the methods that are measured against them.

``maml``: the derivative through the K steps of a first-order inner solver. ``implicit``: at the minimiser of
G, strength * (Hessian of G)^-1 * (gradient of the query loss). Both say per task why there is none.
"""

from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from bench.api import Bilevel, FirstOrderSolver, InnerSolver, State, Vectors
from bench.minimiser import DENSE_PARAMS, STATIONARY, MissingError, Oracle, descend, polish

MAX_ITERATE_BYTES = 4 * 2**30
MAX_PARAMS = 200_000  # an inner problem solved to rounding takes minutes a task here, and hours beyond
LINEAR_RESIDUAL = 1e-12


@dataclass(frozen=True)
class Reference:
    """A true meta-gradient: ``value`` [T, P] in float64, NaN in the rows of the tasks in ``missing``.

    ``how`` says how it was computed, ``missing`` why there is none: task number -> reason.
    """

    how: str
    value: Vectors
    missing: dict[int, str]


def absent(bilevel: Bilevel, how: str, reason: str) -> Reference:
    """A reference that no task has, for one reason."""
    value = torch.full_like(bilevel.start, torch.nan)
    return Reference(how, value, dict.fromkeys(range(len(bilevel.tasks)), reason))


def maml_reference(bilevel: Bilevel, inner: InnerSolver) -> Reference:
    """The exact gradient through the K steps that ``inner`` takes from theta; ``bilevel`` is in float64.

    Of an inner solver in another precision, it is that of the solver `unrounded`.

    A reverse sweep over the stored iterates: each step, with the inner gradient in it, is recomputed under
    autograd as one function of iterate, optimiser state and theta, and pulled back as a whole.
    """
    how, inner = "float64, step by step", inner.unrounded()
    if not differentiable(inner):
        return absent(
            bilevel, how, f"{type(inner).__name__} is no sequence of differentiable first-order steps"
        )
    start = bilevel.start
    with torch.no_grad():
        needed = inner.steps * start.nbytes * (1 + len(inner.init(start)))
    if needed > MAX_ITERATE_BYTES:
        return absent(bilevel, how, f"too large: {inner.steps} stored iterates take {needed / 2**30:.0f} GiB")
    if bilevel.problem.batching == "loop":  # one task's graph alive at a time
        value = torch.cat([through_steps(bilevel.one(task), inner) for task in range(len(bilevel.tasks))])
    else:
        value = through_steps(bilevel, inner)
    missing = {}
    for task, finite in enumerate(torch.isfinite(value).all(dim=1).tolist()):
        if not finite:
            missing[task] = f"the {inner.steps} inner steps overflow in float64 too"
            value[task] = torch.nan
    return Reference(how, value, missing)


def differentiable(inner: object) -> TypeGuard[FirstOrderSolver]:
    """Whether ``inner`` is a sequence of first-order steps and nothing else."""
    return isinstance(inner, FirstOrderSolver) and type(inner).__call__ is FirstOrderSolver.__call__


def through_steps(bilevel: Bilevel, inner: FirstOrderSolver) -> Vectors:
    """The derivative of the query loss through the steps of ``inner`` from theta, in the dtype at hand."""
    theta = bilevel.start.detach().clone()
    with torch.no_grad():
        phi, state = theta, inner.init(theta)
        iterates: list[tuple[Tensor, State]] = []
        for step in range(inner.steps):
            iterates.append((phi, state))
            phi, state = inner.advance(bilevel, inner, phi, state, inner.schedule(step))
        phi_bar, state_bar = bilevel.outer_grad(phi), tuple(torch.zeros_like(s) for s in state)
    theta_bar = torch.zeros_like(theta)
    with torch.enable_grad():
        for step in reversed(range(inner.steps)):
            phi, state = iterates.pop()
            phi, meta, *leaves = (x.detach().clone().requires_grad_() for x in (phi, theta, *state))
            here, numbers = bilevel.at(meta), inner.schedule(step)
            new_phi, new_state = inner.advance(here, inner, phi, tuple(leaves), numbers)
            bars = _pull_back((new_phi, *new_state), (phi_bar, *state_bar), (phi, meta, *leaves))
            phi_bar, state_bar = bars[0], bars[2:]
            theta_bar += bars[1]
        leaf = theta.clone().requires_grad_()
        (state_part,) = _pull_back(inner.init(leaf), state_bar, (leaf,))
    return theta_bar + phi_bar + state_part


def _pull_back(outputs: State, bars: State, inputs: State) -> State:
    """The sum over outputs of (d output / d input)^T bar, for every input."""
    pairs = [(out, bar) for out, bar in zip(outputs, bars, strict=True) if out.requires_grad]
    if not pairs:
        return tuple(torch.zeros_like(x) for x in inputs)
    outs, bars = zip(*pairs, strict=True)
    return torch.autograd.grad(outs, inputs, bars, materialize_grads=True)


def implicit_reference(bilevel: Bilevel) -> Reference:
    """strength * (Hessian of G)^-1 * (query gradient) at the minimiser of G; ``bilevel`` is in float64.

    The minimiser is the problem's closed form or the one that L-BFGS finds from theta, polished by Newton
    steps until |grad G| stops falling. A task has no reference where that ends above `STATIONARY` of
    |grad G(theta)|, where the Hessian there is not positive definite, or where the work exceeds its limit.
    """
    n_params = bilevel.start.shape[1]
    dense = n_params <= DENSE_PARAMS
    if n_params > MAX_PARAMS:
        reason = f"too large: {n_params} parameters, the limit is {MAX_PARAMS}"
        return absent(bilevel, "minimiser and linear solve", reason)
    with torch.no_grad():
        closed = bilevel.inner_solution()
    how = "closed-form minimiser" if closed is not None else "L-BFGS from theta"
    how += f", Newton to {STATIONARY:g} of the first gradient, "
    how += "dense solve" if dense else f"conjugate gradient to {LINEAR_RESIDUAL:g}"
    value, missing = torch.full_like(bilevel.start, torch.nan), {}
    for task in range(len(bilevel.tasks)):
        try:
            with torch.no_grad():
                first = None if closed is None else closed[task : task + 1]
                value[task] = _implicit(Oracle(bilevel.one(task)), first)
        except MissingError as error:
            missing[task] = str(error)
    return Reference(how, value, missing)


def _implicit(oracle: Oracle, closed: Vectors | None) -> Vectors:
    bilevel = oracle.bilevel
    phi = descend(oracle) if closed is None else closed
    phi, hessian = polish(oracle, phi)
    smallest = hessian.smallest_eigenvalue()
    if smallest <= 0:
        raise MissingError(
            f"indefinite: smallest eigenvalue {smallest:.3g} of the Hessian of G at the solution"
        )
    x = hessian.solve(bilevel.outer_grad(phi), LINEAR_RESIDUAL)
    return -bilevel.cross(phi, x)
