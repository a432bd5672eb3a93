"""Linear solvers on systems that hypothesis makes up: any size, spectrum and right-hand side."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.registry import build
from bench.testing.samples import draws, product

KRYLOV = ("conjugate_gradient", "preconditioned_conjugate_gradient", "minres", "gmres", "normal_cg")


@st.composite
def systems(draw, positive: bool = True) -> tuple[Tensor, Tensor]:
    """Two symmetric systems [2, n, n], [2, n] with eigenvalues of size 0.1 to 1, repeated ones among them."""
    n = draw(st.integers(1, 7))
    sizes = st.sampled_from([0.1, 0.3, 0.5, 1.0]) | st.floats(0.1, 1.0)
    values = torch.tensor(draw(st.lists(sizes, min_size=n, max_size=n)), dtype=torch.float64)
    if not positive:
        signs = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=n, max_size=n))
        values = values * torch.tensor(signs, dtype=torch.float64)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    basis = torch.linalg.qr(torch.randn(2, n, n, generator=generator, dtype=torch.float64)).Q
    rhs = torch.randn(2, n, generator=generator, dtype=torch.float64)
    rhs = rhs * 10.0 ** draw(st.integers(-100, 100))
    if draw(st.booleans()):
        rhs[0] = 0
    return (basis * values) @ basis.mT, rhs


def residual(matrix: Tensor, rhs: Tensor, x: Tensor) -> Tensor:
    size = rhs.norm(dim=1)
    return (rhs - product(matrix)(x)).norm(dim=1) / torch.where(size > 0, size, 1)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(system=systems(), name=st.sampled_from(KRYLOV), iterations=st.integers(1, 9))
def test_the_residual_is_true_and_falls_to_rounding_in_n_steps(system, name, iterations) -> None:
    matrix, rhs = system
    solver = build("linear", {"name": name, "iterations": iterations})
    solution = solver(product(matrix), rhs, noise=draws(range(2), rhs))
    true = residual(matrix, rhs, solution.value)
    assert (solution.stats["residual"] - true).abs().max() < 1e-9
    if iterations >= 2 * rhs.shape[1]:
        assert true.max() < 1e-9


@settings(deadline=None, max_examples=60, derandomize=True)
@given(system=systems(positive=False), name=st.sampled_from(("minres", "gmres")))
def test_indefinite_systems_are_solved_in_n_steps(system, name) -> None:
    matrix, rhs = system
    solver = build("linear", {"name": name, "iterations": 2 * rhs.shape[1], "tolerance": 1e-9})
    solution = solver(product(matrix), rhs)
    assert solution.converged.all()
    assert residual(matrix, rhs, solution.value).max() < 1e-8


@settings(deadline=None, max_examples=40, derandomize=True)
@given(system=systems(), name=st.sampled_from(KRYLOV), tolerance=st.sampled_from([1e-2, 1e-5, 1e-8]))
def test_a_solution_is_a_start_that_takes_no_step(system, name, tolerance) -> None:
    matrix, rhs = system
    solver = build("linear", {"name": name, "iterations": 60, "tolerance": tolerance})
    noise = draws(range(2), rhs)
    first = solver(product(matrix), rhs, noise=noise)
    assert first.converged.all()
    assert residual(matrix, rhs, first.value).max() <= tolerance * (1 + 1e-6)
    again = solver(product(matrix), rhs, start=torch.linalg.solve(matrix, rhs), noise=noise)
    assert again.stats["iterations"].max() == 0
