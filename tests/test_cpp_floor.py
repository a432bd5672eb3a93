"""The methods in C++ for the sinusoids' MLP against ours, and what they decline."""

import pytest
import torch

from bench.api import Bilevel, Declined
from bench.registry import build, unavailable
from bench.testing.samples import draw, regression, sinusoid

NAMES = ("maml", "fomaml", "imaml")


def floor(name: str, **fields):
    method = build("method", {"name": f"{name}-cpp", **fields})
    if reason := unavailable(method):
        pytest.skip(reason)
    return method


def ours(name: str, steps: int, rate: float, iterations: int = 5):
    linear = {"linear": {"name": "conjugate_gradient", "iterations": iterations}} if name == "imaml" else {}
    return build("method", {"name": name, "inner": descent(steps, rate), **linear})


def descent(steps: int = 5, rate: float = 0.01) -> dict:
    return {"name": "gradient_descent", "steps": steps, "learning_rate": rate}


def tasks(activation: str, hidden: tuple[int, ...], n_tasks: int = 3, **fields) -> Bilevel:
    network = {"name": "mlp", "hidden": list(hidden), "activation": activation}
    return draw(build("problem", {"name": "sinusoid", "network": network, **fields}), n_tasks)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the task that is furthest off."""
    return ((got.double() - wanted).norm(dim=1) / wanted.norm(dim=1)).max().item()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("hidden", [(40, 40), (7,), (1, 1), (33, 5, 20), (64, 17)])
@pytest.mark.parametrize("steps", [0, 1, 12])
@pytest.mark.parametrize("name", NAMES)
def test_the_floor_is_ours(name: str, steps: int, hidden: tuple[int, ...], activation: str) -> None:
    bilevel = tasks(activation, hidden, shots=7, queries=12)
    got, wanted = floor(name, inner=descent(steps))(bilevel), ours(name, steps, 0.01)(bilevel)
    assert error(got.meta_grad, wanted.meta_grad) < 1e-12
    assert error(got.adapted, wanted.adapted) < 1e-13
    assert got.converged.all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_tasks", [1, 25])
def test_many_steps_and_tasks_at_points_of_their_own(name: str, n_tasks: int) -> None:
    one = tasks("tanh", (40, 40), n_tasks)
    shift = 0.1 * torch.arange(n_tasks, dtype=torch.float64)[:, None].sin()
    bilevel = Bilevel(one.problem, one.tasks, one.meta + shift)
    got, wanted = floor(name, inner=descent(50))(bilevel), ours(name, 50, 0.01)(bilevel)
    assert error(got.meta_grad, wanted.meta_grad) < 1e-11
    assert error(got.adapted, wanted.adapted) < 1e-13


@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_conjugate_gradient_is_ours_iteration_by_iteration(iterations: int) -> None:
    bilevel = tasks("tanh", (40, 40), strength=10.0)
    got = floor("imaml", inner=descent(), iterations=iterations)(bilevel)
    wanted = ours("imaml", 5, 0.01, iterations)(bilevel)
    assert error(got.meta_grad, wanted.meta_grad) < 1e-9
    assert torch.equal(got.converged, wanted.converged)


def test_a_negative_curvature_is_not_converged() -> None:
    bilevel = tasks("tanh", (40, 40), n_tasks=8, strength=0.01)
    got = floor("imaml", inner=descent(), iterations=8)(bilevel)
    assert torch.equal(got.converged, ours("imaml", 5, 0.01, 8)(bilevel).converged)
    assert not got.converged.all()


def test_what_diverges_is_not_finite_and_says_so() -> None:
    for activation in ("relu", "tanh"):
        for name in NAMES:
            got = floor(name, inner=descent(400, 10.0))(tasks(activation, (6, 6)))
            assert not got.converged.any()
            assert not torch.isfinite(got.adapted).all()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", NAMES)
def test_float32_is_right_to_its_rounding(name: str, activation: str) -> None:
    low = tasks(activation, (40, 40), n_tasks=10).to(torch.float32)
    got = floor(name, inner=descent(50))(low)
    assert error(got.meta_grad, ours(name, 50, 0.01)(low.to(torch.float64)).meta_grad) < 5e-6
    assert got.meta_grad.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 3e-7), (torch.float64, 6e-16)])
def test_tanh_is_torchs(dtype: torch.dtype, allowed: float) -> None:
    """One hidden unit, one inner step from targets of zero: phi's move is a known function of tanh."""
    x = torch.cat([torch.logspace(-30, 1.6, 400), torch.linspace(0, 30, 400)]).to(dtype)
    x = torch.cat([x, -x, torch.zeros(1, dtype=dtype)])[:, None, None]
    bilevel = tasks("tanh", (1,), n_tasks=len(x), strength=0.0)
    meta = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=dtype)
    there = Bilevel(bilevel.problem, type(bilevel.tasks)(x, 0 * x, x, 0 * x), meta)
    got = floor("fomaml", inner=descent(0))(there).meta_grad[:, 3] / 2  # d loss / d last bias = 2 tanh(x)
    wanted = x.double().tanh().flatten()
    assert ((got.double() - wanted).abs() <= allowed * wanted.abs()).all()


@pytest.mark.parametrize(
    ("bilevel", "said"),
    [
        (regression(), "written for sinusoids, not for LinearRegression"),
        (tasks("softplus", (4,)), "no softplus, only relu and tanh"),
        (tasks("tanh", ()), "an mlp with hidden layers"),
        (sinusoid().to(torch.bfloat16), "not torch.bfloat16 on cpu"),
        (sinusoid().to(torch.float16), "not torch.float16 on cpu"),
    ],
    ids=["problem", "activation", "no hidden layer", "bfloat16", "float16"],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_it_is_not_written_for_is_declined(name: str, bilevel: Bilevel, said: str) -> None:
    with pytest.raises(Declined, match=said):
        floor(name)(bilevel)


@pytest.mark.parametrize("name", NAMES)
def test_another_network_or_inner_solver_is_declined(name: str) -> None:
    b = sinusoid()
    problem = build("problem", {"name": "sinusoid", "network": "conv4"})
    with pytest.raises(Declined, match="mlp with hidden layers, not for Conv4"):
        floor(name)(Bilevel(problem, b.tasks, b.meta))
    for inner in ("momentum", "adam", "hessian_free"):
        with pytest.raises(Declined, match=f"no '{inner}', gradient_descent only"):
            floor(name, inner=inner)(b)
