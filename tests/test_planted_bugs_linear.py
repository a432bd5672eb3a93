"""A plain conjugate gradient passes the battery; with one bug planted, that other code has had, it fails."""

from dataclasses import dataclass

import pytest
import torch

from bench import registry
from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors
from bench.testing import check_linear_solver
from tests.toy_cells import lend_registry


@dataclass(frozen=True)
class PlantedCG(LinearSolver):
    """Conjugate gradient for all tasks, with the bug named by ``bug``."""

    krylov = True

    bug: str = "none"
    iterations: int = 5
    tolerance: float = 0.0

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        wasteful = self.bug == "product with zero"
        x = torch.zeros_like(rhs) if start is None else start
        r = rhs - matvec(x) if wasteful or start is not None else rhs
        p, rr, bb = r, r.square().sum(dim=1), rhs.square().sum(dim=1)
        first = rr
        goal = self.tolerance**2 * (1 if self.bug == "absolute tolerance" else bb)
        goal = goal * torch.ones_like(bb)
        taken = torch.zeros_like(rr)
        for _ in range(self.iterations):
            active = rr > goal
            if not active.any():
                break
            Ap = matvec(p)
            if self.bug == "not finite ends it":
                Ap = Ap.nan_to_num() * torch.isfinite(Ap).all(dim=1, keepdim=True)
            pAp = (p * Ap).sum(dim=1)
            if self.bug == "not finite ends it":
                active = active & (pAp != 0)
            alpha = torch.where(active, rr / pAp, 0)[:, None]
            before = x
            x = x + alpha * p * (1.1 if self.bug == "x takes another step than r" else 1)
            r = r - alpha * Ap
            new = r.square().sum(dim=1)
            if self.bug == "previous iterate":
                x = torch.where((active & (new <= goal))[:, None], before, x)
            by = first if self.bug == "beta of the first residual" else rr
            beta = torch.where(active, new / torch.where(active, by, 1), 0)[:, None]
            p = r + beta * (r if self.bug == "direction forgotten" else p)
            rr, taken = new, taken + active
        if self.tolerance > 0 and self.bug not in ("recursive residual", "previous iterate"):
            rr = (rhs - matvec(x)).square().sum(dim=1)
        met = rr <= goal if self.tolerance > 0 else (rr < bb) | (rr == 0) | (self.bug == "not finite ends it")
        residual = (rr / torch.where(bb > 0, bb, 1)).sqrt()
        return Solution(x, met, {"residual": residual, "iterations": taken})

    def products(self, n_params: int) -> int | None:
        return self.iterations if self.tolerance == 0 else None


def failed(bug: str, monkeypatch: pytest.MonkeyPatch, **fields: float) -> list[str]:
    """The names of the checks that fail, with the solver registered for this one test."""
    lend_registry(monkeypatch)
    registry.register("linear", "toy-planted-cg")(PlantedCG)
    checks = check_linear_solver({"name": "toy-planted-cg", "bug": bug, **fields})
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize("fields", [{}, {"iterations": 30, "tolerance": 1e-6}], ids=str)
def test_without_a_bug_nothing_fails(fields: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed("none", monkeypatch, **fields) == []


@pytest.mark.parametrize(
    ("bug", "found_by"),
    [
        ("previous iterate", "stops at the first iterate that meets the tolerance, and returns it"),
        ("direction forgotten", "exact after P iterations"),
        ("beta of the first residual", "exact after P iterations"),
        ("x takes another step than r", "residual is that of the returned iterate (3)"),
        ("absolute tolerance", "scaling by 9e-13 leaves the iterations (3, tolerance 1e-3)"),
        ("product with zero", "declared products are those taken"),
        ("recursive residual", "residual is that of the returned iterate (1e+06, float32, tolerance 1e-3)"),
        ("recursive residual", "converged means that the tolerance is met (1e+06, float32, tolerance 1e-3)"),
        ("not finite ends it", "a task whose products hold nan is not converged"),
    ],
)
def test_every_bug_is_found(bug: str, found_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_by in failed(bug, monkeypatch)
