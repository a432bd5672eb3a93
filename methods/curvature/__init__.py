"""Products with the Hessian of the inner objective."""

from methods.curvature.exact import Exact
from methods.curvature.finite_difference import FiniteDifference

__all__ = ["Exact", "FiniteDifference"]
