"""Linear solvers: A x = rhs from products with A."""

from methods.linear.conjugate_gradient import ConjugateGradient
from methods.linear.dense import Dense
from methods.linear.fixed_point import FixedPoint
from methods.linear.gmres import GMRES
from methods.linear.in_dtype import InDtype
from methods.linear.minres import Minres
from methods.linear.neumann import Neumann
from methods.linear.normal_cg import NormalCG
from methods.linear.nystrom import Nystrom
from methods.linear.preconditioned_conjugate_gradient import PreconditionedConjugateGradient

__all__ = [
    "GMRES",
    "ConjugateGradient",
    "Dense",
    "FixedPoint",
    "InDtype",
    "Minres",
    "Neumann",
    "NormalCG",
    "Nystrom",
    "PreconditionedConjugateGradient",
]
