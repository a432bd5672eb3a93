"""Preconditioners: r -> M^-1 r of a cheap stand-in M for A."""

from methods.preconditioner.diagonal import Diagonal
from methods.preconditioner.nystrom import NystromPreconditioner

__all__ = ["Diagonal", "NystromPreconditioner"]
