"""What the randomised preconditioners and the Nystrom solver share."""

import torch
from torch import Tensor

from bench.api import Declined, InvalidValueError, Matvec, Noise, Vectors


def drawn(noise: Noise | None, number: int, like: Vectors) -> Vectors:
    """The draw, in the shape and dtype of ``like``; `InvalidValueError` if there is no noise to draw from."""
    if noise is None:
        raise InvalidValueError(
            "noise = None is not possible for a randomised plugin; allowed: bilevel.noise"
        )
    return noise(number).to(like)


def gaussian(noise: Noise | None, like: Vectors, rank: int) -> Tensor:
    """[T, P, rank] standard normal numbers, orthonormalised."""
    return torch.linalg.qr(torch.stack([drawn(noise, i, like) for i in range(rank)], dim=-1)).Q


def sketch(matvec: Matvec, omega: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """Z [T, P, k] and lam [T, k] with (A - rho I) ~ Z diag(1 / lam) Z': Nystrom's Y (Omega' Y)^+ Y'.

    Y = (A - rho I) Omega takes k products. Directions that Omega' Y lacks up to rounding get Z = 0, lam = 1.
    Z is NaN for a task with a product that is not finite: eigh would end the whole batch on it.
    """
    Y = torch.stack([matvec(column) - rho * column for column in omega.unbind(dim=-1)], dim=-1)
    core = omega.mT @ Y
    lost = ~(torch.isfinite(Y).all(dim=1) & torch.isfinite(core).all(dim=1)).all(dim=1)[:, None, None]
    core = torch.where(lost, 0, core)
    lam, Q = torch.linalg.eigh((core + core.mT) / 2)
    size = lam.abs().amax(dim=1, keepdim=True)
    kept = lam.abs() > 10 * lam.shape[1] * torch.finfo(lam.dtype).eps * size
    Z = torch.where(kept[:, None], Y @ Q, 0)
    return torch.where(lost, torch.nan, Z), torch.where(kept, lam, 1)


def decline_half(like: Vectors) -> None:
    """torch has no dense decompositions in half precision."""
    if like.dtype in (torch.float16, torch.bfloat16):
        raise Declined(f"torch has no dense decomposition in {str(like.dtype).removeprefix('torch.')}")
