"""Inner solvers: minimise G from the meta-parameters."""

from methods.inner.adam import Adam
from methods.inner.closed_form import ClosedForm
from methods.inner.gradient_descent import GradientDescent
from methods.inner.hessian_free import HessianFree
from methods.inner.momentum import Momentum

__all__ = ["Adam", "ClosedForm", "GradientDescent", "HessianFree", "Momentum"]
