"""The C++ in `mlp_floor.cpp` on a batch of tasks: what it serves, how it is called, what it counts."""

import ctypes
from typing import Any, Literal

import torch

from bench import native
from bench.api import Bilevel, Counts, Declined, Estimate, InnerSolver
from bench.registry import get, name_of
from methods.inner import GradientDescent

Kind = Literal["first_order", "adjoint", "implicit"]
KINDS: tuple[Kind, ...] = ("first_order", "adjoint", "implicit")  # as the enum in the source
ACTIVATIONS = ("relu", "tanh")
INTEGERS = ("kind", "layers", "tasks", "shots", "queries", "steps", "iterations")


class Settings(ctypes.Structure):
    """`Settings` of the source."""

    _fields_ = (
        *((n, ctypes.c_long) for n in INTEGERS),
        ("rate", ctypes.c_double),
        ("strength", ctypes.c_double),
    )


def cost(inner: InnerSolver, kind: Kind, iterations: int = 0) -> Counts:
    """Oracle calls of one estimate; a linearisation for Hessian products counts as a gradient."""
    steps = descent(inner).steps
    grads = {"first_order": steps, "adjoint": 2 * steps, "implicit": steps + 1}[kind]
    products = {"first_order": 0, "adjoint": steps, "implicit": iterations}[kind]
    return Counts(inner_grads=grads, inner_hvps=products, outer_grads=1)


def descent(inner: InnerSolver) -> GradientDescent:
    """The only inner solver there is."""
    if not isinstance(inner, GradientDescent):
        raise Declined(f"the C++ of the floor has no '{name_of(inner)}', gradient_descent only")
    return inner


def run(bilevel: Bilevel, inner: InnerSolver, kind: Kind, iterations: int = 0) -> Estimate:
    """The estimate of all tasks in one call, on one thread."""
    inner, network = descent(inner), _network(bilevel)
    theta, t = bilevel.start.detach(), bilevel.tasks
    data = [x.to(theta).contiguous() for x in (t.support_x, t.support_y, t.query_x, t.query_y)]
    shots, queries, hidden = t.support_x.shape[1], t.query_x.shape[1], network.hidden
    numbers = (KINDS.index(kind), len(hidden), len(t), shots, queries, inner.steps, iterations)
    settings = Settings(*numbers, inner.learning_rate, bilevel.strength)
    meta_grad, adapted = torch.empty_like(theta), torch.empty_like(theta)
    sound = torch.empty(len(t), dtype=torch.bool)
    library = native.library("methods.libraries", "mlp_floor.cpp")
    call = library.meta_gradients_float32 if theta.dtype == torch.float32 else library.meta_gradients_float64
    widths, activation = (ctypes.c_long * len(hidden))(*hidden), ACTIVATIONS.index(network.activation)
    inputs = (ctypes.c_void_p * len(data))(*(x.data_ptr() for x in data))
    start, *outputs = (ctypes.c_void_p(x.data_ptr()) for x in (theta, meta_grad, adapted, sound))
    if call(ctypes.byref(settings), widths, ctypes.c_long(activation), start, inputs, *outputs):
        raise MemoryError(f"no memory for {inner.steps} iterates in the C++ of the floor")
    bilevel.calls.add(**cost(inner, kind, iterations).as_dict())
    return Estimate(meta_grad, adapted, sound, {})


def _network(bilevel: Bilevel) -> Any:
    """The problem's network, where it is what the source is written for."""
    problem, dtype, device = bilevel.problem, bilevel.meta.dtype, bilevel.meta.device
    if type(problem) is not get("problem", "sinusoid"):
        raise Declined(f"the C++ of the floor is written for sinusoids, not for {type(problem).__name__}")
    network: Any = getattr(problem, "network", None)
    if type(network) is not get("network", "mlp") or not network.hidden:
        raise Declined(f"the C++ of the floor is written for an mlp with hidden layers, not for {network}")
    if network.activation not in ACTIVATIONS:
        raise Declined(f"the C++ of the floor has no {network.activation}, only {' and '.join(ACTIVATIONS)}")
    if device.type != "cpu" or dtype not in (torch.float32, torch.float64):
        raise Declined(f"the C++ of the floor runs in float32 or float64 on the CPU, not {dtype} on {device}")
    return network
