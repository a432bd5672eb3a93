"""Inner solvers: minimise G from the meta-parameters."""

from methods.inner.adam import Adam
from methods.inner.armijo import Armijo
from methods.inner.closed_form import ClosedForm
from methods.inner.gradient_descent import GradientDescent
from methods.inner.gradients_in import GradientsIn
from methods.inner.hessian_free import HessianFree
from methods.inner.in_dtype import InDtype
from methods.inner.lbfgs import LBFGS
from methods.inner.learned_rate import LearnedRate
from methods.inner.momentum import Momentum
from methods.inner.nesterov import Nesterov
from methods.inner.rounded import entered

__all__ = [
    "LBFGS",
    "Adam",
    "Armijo",
    "ClosedForm",
    "GradientDescent",
    "GradientsIn",
    "HessianFree",
    "InDtype",
    "LearnedRate",
    "Momentum",
    "Nesterov",
    "entered",
]
