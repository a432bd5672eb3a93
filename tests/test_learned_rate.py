"""A meta-parameter that only a derivative through the steps reaches: a factor on the inner step."""

import pytest
import torch

from bench.api import Bilevel
from bench.reference import implicit_reference, maml_reference
from bench.registry import build
from bench.testing.samples import draw

NETWORK = {"name": "mlp", "hidden": [5], "activation": "tanh"}
BASES = {
    "linear_regression": {"name": "linear_regression", "dim": 6},
    "sinusoid": {"name": "sinusoid", "network": NETWORK},
}
STEPS, RATE = 4, 0.004
LEARNED = {"name": "learned_rate", "steps": STEPS, "learning_rate": RATE}
FIXED = LEARNED | {"name": "gradient_descent"}


def problem(base: str, factor: float = 0.3) -> Bilevel:
    """Three tasks with the factor's logarithm at ``factor``."""
    bilevel = draw(build("problem", {"name": "learned_rate", "problem": BASES[base]}), 3)
    meta = bilevel.meta.clone()
    assert meta[-1] == 0
    meta[-1] = factor
    return bilevel.at(meta)


@pytest.mark.parametrize("backward", ["adjoint", "unrolled", "checkpointed", "mixed_mode"])
@pytest.mark.parametrize("base", BASES)
def test_the_derivative_in_the_factor_is_that_of_finite_differences(base: str, backward: str) -> None:
    """d query_loss(phi_K) / d c, against plain descent at two other steps written out here."""
    bilevel, h = problem(base), 1e-6

    def query(c: float) -> torch.Tensor:
        phi, rate = bilevel.start, RATE * torch.tensor(c, dtype=torch.float64).exp()
        for _ in range(STEPS):
            moved = phi - rate * bilevel.inner_grad(phi)
            phi = torch.cat([moved[:, :-1], phi[:, -1:]], dim=1)
        return bilevel.outer_value(phi)

    wanted = (query(0.3 + h) - query(0.3 - h)) / (2 * h)
    method = build("method", {"name": "maml", "inner": LEARNED, "backward": backward})
    found = method(bilevel).meta_grad
    assert (wanted.abs() > 1e-3).all()
    torch.testing.assert_close(found[:, -1], wanted, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        found, maml_reference(bilevel, build("inner", LEARNED)).value, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("base", BASES)
def test_the_implicit_gradient_in_the_factor_is_zero_to_the_bit(base: str) -> None:
    bilevel = problem(base)
    assert (implicit_reference(bilevel).value[:, -1] == 0).all()
    for steps in (1, 50):
        inner = LEARNED | {"steps": steps}
        found = build("method", {"name": "imaml", "inner": inner})(bilevel)
        assert (found.meta_grad[:, -1] == 0).all()
        assert (found.meta_grad[:, :-1] != 0).any(dim=1).all()


@pytest.mark.parametrize("base", BASES)
def test_to_another_solver_it_is_the_base_problem(base: str) -> None:
    bilevel = problem(base)
    inside = build("problem", BASES[base])
    plain = Bilevel(inside, bilevel.tasks, bilevel.meta[:-1])
    method = build("method", {"name": "maml", "inner": FIXED})
    found, wanted = method(bilevel), method(plain)
    torch.testing.assert_close(found.meta_grad[:, :-1], wanted.meta_grad, rtol=1e-12, atol=1e-14)
    assert (found.meta_grad[:, -1] == 0).all()
    assert torch.equal(found.adapted[:, -1], bilevel.start[:, -1])


def test_at_a_factor_of_one_the_steps_are_those_of_gradient_descent() -> None:
    bilevel = problem("sinusoid", 0.0)
    learned, fixed = (build("inner", table)(bilevel, bilevel.start).value for table in (LEARNED, FIXED))
    assert torch.equal(learned, fixed)
