"""Products with the Hessian of the inner objective."""

from methods.curvature.exact import Exact
from methods.curvature.finite_difference import FiniteDifference
from methods.curvature.gauss_newton import GaussNewton
from methods.curvature.in_dtype import InDtype

__all__ = ["Exact", "FiniteDifference", "GaussNewton", "InDtype"]
