from dataclasses import dataclass

import torch

from bench.api import Matvec, Noise, Preconditioner, Vectors, require
from bench.registry import register
from methods.preconditioner.sketch import decline_half, gaussian, sketch


@register("preconditioner", "nystrom")
@dataclass(frozen=True)
class NystromPreconditioner(Preconditioner):
    """M^-1 = (lam_r + rho) U (Lam + rho)^-1 U' + I - U U' (Frangella, Tropp and Udell 2023).

    U Lam U' is the randomised Nystrom approximation of rank ``rank`` of A - rho I, whose negative part is
    dropped; ``rho`` is the part of A that is a multiple of I (the strength is the natural choice). ``rank``
    products (at most P). Where A - rho I >= 0 has rank below ``rank``, M is a multiple of A.
    """

    stochastic = True

    rank: int = 10
    rho: float = 1.0

    def __post_init__(self) -> None:
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        require(self.rho > 0, "rho", self.rho, "a positive number")

    def __call__(self, matvec: Matvec, like: Vectors, noise: Noise | None = None) -> Matvec:
        decline_half(like)
        omega = gaussian(noise, like, self.products(like.shape[1]))
        Z, lam = sketch(matvec, omega, self.rho)
        Z = Z.nan_to_num()  # M = I for a task with a product that is not finite: the solver will meet it
        positive = lam > 0
        root = torch.where(positive, lam, 1).rsqrt()
        U, sigma, _ = torch.linalg.svd(
            torch.where(positive[:, None], Z, 0) * root[:, None], full_matrices=False
        )
        values = sigma.square() + self.rho
        weights = values[:, -1:] / values - 1  # the smallest last: weight 0, as for the complement of U

        def precondition(r: Vectors) -> Vectors:
            inside = weights.unsqueeze(-1) * (U.mT @ r.unsqueeze(-1))
            return r + (U @ inside).squeeze(-1)

        return precondition

    def products(self, n_params: int) -> int:
        return min(self.rank, n_params)
