from dataclasses import dataclass

import torch

from bench.api import Matvec, Noise, Preconditioner, Vectors, require
from bench.registry import register
from methods.preconditioner.sketch import drawn


@register("preconditioner", "diagonal")
@dataclass(frozen=True)
class Diagonal(Preconditioner):
    """M = diag(A), as the mean of z * A z over random signs z (Bekas, Kokiopoulou and Saad 2007).

    Entry i is unbiased with the variance sum_{j != i} A_ij^2 / probes, so it is exact for a diagonal A.
    0 probes take the exact diagonal, by P products. Entries below ``floor`` times the largest are raised to
    it, which keeps M positive definite.
    """

    stochastic = True

    probes: int = 10
    floor: float = 1e-3

    def __post_init__(self) -> None:
        require(self.probes >= 0, "probes", self.probes, "0 (exact) or more")
        require(0 < self.floor <= 1, "floor", self.floor, "above 0, at most 1")
        object.__setattr__(self, "stochastic", self.probes > 0)  # the exact diagonal draws nothing

    def __call__(self, matvec: Matvec, like: Vectors, noise: Noise | None = None) -> Matvec:
        total = torch.zeros_like(like)
        for i in range(self.probes):
            z = torch.where(drawn(noise, i, like) < 0, -torch.ones_like(like), 1)
            total = total + z * matvec(z) / self.probes
        if self.probes == 0:
            unit = torch.zeros_like(like)
            for i in range(like.shape[1]):
                unit[:, i] = 1
                total[:, i] = matvec(unit)[:, i]
                unit[:, i] = 0
        largest = total.amax(dim=1, keepdim=True)
        # Nothing positive on the diagonal: A is not positive definite, and M = I does no harm.
        diagonal = torch.where(largest > 0, torch.maximum(total, self.floor * largest), 1)
        return lambda r: r / diagonal

    def products(self, n_params: int) -> int:
        return self.probes or n_params
