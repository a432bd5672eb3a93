"""Inner solvers: minimise G from the meta-parameters."""

from methods.inner.adam import Adam
from methods.inner.armijo import Armijo
from methods.inner.closed_form import ClosedForm
from methods.inner.gradient_descent import GradientDescent
from methods.inner.hessian_free import HessianFree
from methods.inner.lbfgs import LBFGS
from methods.inner.momentum import Momentum
from methods.inner.nesterov import Nesterov

__all__ = [
    "LBFGS",
    "Adam",
    "Armijo",
    "ClosedForm",
    "GradientDescent",
    "HessianFree",
    "Momentum",
    "Nesterov",
]
