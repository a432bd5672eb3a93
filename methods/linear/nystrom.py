from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from bench.api import LinearSolver, Matvec, Noise, Solution, Vectors, require
from bench.registry import register
from methods.linear.krylov import finish, scale_of
from methods.preconditioner.sketch import decline_half, drawn, gaussian, sketch


@register("linear", "nystrom")
@dataclass(frozen=True)
class Nystrom(LinearSolver):
    """x = (b - Y (rho C + Y'Y)^-1 Y' b) / rho, Y = (A - rho I) Omega, C = Omega' Y (Hataya and Yamada 2023).

    The inverse of rho I + Y C^+ Y' by Woodbury; exact when A - rho I has rank at most ``rank``. ``rho`` is
    the part of A that is a multiple of I: the strength is the natural choice. Omega holds random unit
    vectors ("columns") or a random orthonormal basis ("gaussian"). ``rank`` products (at most P), and one
    for the true residual, which ``tolerance`` judges and nothing can lower.
    """

    stochastic: ClassVar[bool] = True

    rank: int = 10
    rho: float = 1.0
    sketch: Literal["columns", "gaussian"] = "columns"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        require(self.rho > 0, "rho", self.rho, "a positive number")
        require(self.sketch in ("columns", "gaussian"), "sketch", self.sketch, "columns, gaussian")
        require(self.tolerance >= 0, "tolerance", self.tolerance, "0 or more")

    def __call__(
        self, matvec: Matvec, rhs: Vectors, start: Vectors | None = None, noise: Noise | None = None
    ) -> Solution:
        decline_half(rhs)
        rank = min(self.rank, rhs.shape[1])
        if self.sketch == "gaussian":
            omega = gaussian(noise, rhs, rank)
        else:
            chosen = drawn(noise, 0, rhs).argsort(dim=1)[:, :rank]
            omega = torch.nn.functional.one_hot(chosen, rhs.shape[1]).to(rhs).mT
        scale = scale_of(rhs)[:, None]
        b = rhs / scale
        Z, lam = sketch(matvec, omega, self.rho)
        inside, info = torch.linalg.solve_ex(self.rho * torch.diag_embed(lam) + Z.mT @ Z, Z.mT @ b[..., None])
        x = (b - (Z @ inside).squeeze(-1)) / self.rho
        norm = torch.linalg.vector_norm(b, dim=1)
        residual = torch.linalg.vector_norm(b - matvec(x), dim=1) / torch.where(norm > 0, norm, 1)
        stats = {"residual": residual, "iterations": torch.full_like(norm, rank)}
        met = residual <= self.tolerance if self.tolerance > 0 else torch.isfinite(residual)
        return finish(scale, x, (info == 0) & met, stats)

    def products(self, n_params: int) -> int | None:
        return min(self.rank, n_params) + 1
