"""Linear solvers: A x = rhs from products with A."""

from methods.linear.conjugate_gradient import ConjugateGradient
from methods.linear.dense import Dense
from methods.linear.neumann import Neumann

__all__ = ["ConjugateGradient", "Dense", "Neumann"]
