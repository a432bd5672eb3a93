"""THE TABLE: every plugin, its options and what it promises. A new row tests everything."""

from dataclasses import dataclass, field
from typing import Any

from bench.api import Target

SHORT = {"name": "gradient_descent", "steps": 3, "learning_rate": 0.02}
LONG = {"name": "momentum", "steps": 300, "learning_rate": 0.02, "momentum": 0.8}
GD = {"name": "gradient_descent", "steps": 12, "learning_rate": 0.02}
MOMENTUM = {"name": "momentum", "steps": 12, "learning_rate": 0.01, "momentum": 0.8}
NESTEROV = {"name": "nesterov", "steps": 12, "learning_rate": 0.01, "momentum": 0.8}
# A large epsilon keeps Adam's map smooth enough for finite differences.
ADAM = {"name": "adam", "steps": 12, "learning_rate": 0.02, "epsilon": 0.1}
NEWTON = {"name": "hessian_free", "steps": 60, "tolerance": 1e-9}
NEWTON |= {"linear": {"name": "conjugate_gradient", "iterations": 40}}
SERIES = {"linear": "neumann", "iterations": 500}
CG = {"name": "conjugate_gradient", "iterations": 200, "tolerance": 1e-12}
IN_DOUBLE = {"name": "in_dtype", "dtype": "float64"}
SCALED = {"name": "gradients_in", "dtype": "float64", "loss_scale": 1024.0}


@dataclass(frozen=True)
class MethodCase:
    """``exact``: equal to that reference; None: only the battery. ``finite_differences``: also checked so."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    exact: Target | None = None
    finite_differences: bool = False

    @property
    def table(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


METHODS = [
    MethodCase("maml", {"inner": GD}, "maml", True),
    MethodCase("maml", {"inner": GD, "backward": "unrolled"}, "maml", True),
    MethodCase("maml", {"inner": GD, "backward": "checkpointed"}, "maml", True),
    MethodCase("maml", {"inner": GD, "backward": "mixed_mode"}, "maml", True),
    MethodCase("maml", {"inner": ADAM, "backward": "mixed_mode"}, "maml", True),
    MethodCase("maml", {"inner": MOMENTUM}, "maml", True),
    MethodCase("maml", {"inner": MOMENTUM, "backward": "unrolled"}, "maml", True),
    MethodCase("maml", {"inner": MOMENTUM, "backward": "checkpointed"}, "maml", True),
    *(
        MethodCase("maml", {"inner": NESTEROV, "backward": backward}, "maml", True)
        for backward in ("adjoint", "unrolled", "checkpointed", "mixed_mode")
    ),
    MethodCase("maml", {"inner": ADAM}, "maml", True),
    MethodCase("maml", {"inner": ADAM, "backward": "unrolled"}, "maml", True),
    MethodCase("maml", {"inner": ADAM, "backward": "checkpointed"}, "maml", True),
    MethodCase("maml", {"inner": {**IN_DOUBLE, "inner": MOMENTUM}}, "maml", True),
    MethodCase("maml", {"inner": {**SCALED, "inner": ADAM}}, "maml", True),
    MethodCase("maml", {"inner": GD, "curvature": "exact"}, "maml", True),
    MethodCase("maml", {"inner": ADAM, "curvature": {**IN_DOUBLE, "loss_scale": 1024.0}}, "maml", True),
    MethodCase("maml-higher", {"inner": GD}, "maml", True),
    MethodCase("maml-higher", {"inner": MOMENTUM}, "maml", True),
    MethodCase("maml-higher", {"inner": ADAM}, "maml"),
    MethodCase("shine"),
    MethodCase("maml-line-search", {"inner": {"name": "armijo", "steps": 5}}, None, True),
    MethodCase("maml-line-search", {"inner": {"name": "lbfgs", "steps": 4}}, None, True),
    MethodCase("fomaml"),
    MethodCase("fomaml", {"inner": {"name": "gradient_descent", "steps": 0}}, "maml", True),
    MethodCase("reptile"),
    MethodCase("imaml"),
    MethodCase("imaml", {"inner": NEWTON, "linear": "dense"}, "implicit"),
    MethodCase("imaml", {"inner": NEWTON, "linear": CG}, "implicit"),
    MethodCase("imaml", {"inner": "closed_form", "linear": CG}, "implicit"),
    MethodCase(
        "imaml",
        {
            "inner": {**IN_DOUBLE, "inner": NEWTON},
            "linear": {**IN_DOUBLE, "linear": CG | {"dots": "float64"}},
            "curvature": {**IN_DOUBLE, "loss_scale": 2.0},
        },
        "implicit",
    ),
    MethodCase("imaml", {"inner": NEWTON, "linear": CG, "curvature": "finite_difference"}, "implicit"),
    MethodCase(
        "imaml",
        {"inner": NEWTON, "linear": {"name": "neumann", "iterations": 800, "step": 0.02, "tolerance": 1e-11}},
        "implicit",
    ),
    MethodCase("imaml", {"inner": "lbfgs", "linear": "minres", "curvature": "gauss_newton"}),
    MethodCase("imaml", {"inner": NEWTON, "linear": {"name": "gmres", "iterations": 100}}, "implicit"),
    MethodCase("imaml", {"inner": "armijo", "linear": "nystrom"}),
    MethodCase("imaml", {"linear": "preconditioned_conjugate_gradient"}),
    MethodCase("imaml-authors-code"),
    MethodCase("imaml-no-prox"),
    MethodCase("imaml-warm-start", {"inner": NEWTON, "linear": CG}, "implicit"),
    MethodCase("truncated-maml"),
    MethodCase("truncated-maml", {"inner": GD, "last": 5}),
    MethodCase("truncated-maml", {"inner": GD, "last": None, "unroll_from": 5}),
    MethodCase("one-step", {"inner": GD}),
    MethodCase("binomial-maml", {"inner": GD, "order": 2}),
    MethodCase("binomial-maml", {"inner": SHORT, "order": 3}, "maml", True),
    MethodCase("fo-b-maml", {"inner": LONG}),
    MethodCase("fo-b-maml", {"inner": LONG, "difference": "forward"}),
    MethodCase("contrastive", {"inner": LONG}),
    MethodCase("contrastive", {"inner": LONG, "nudge": 0.0}),
    MethodCase("forward-gradient", {"inner": SHORT, "directions": 3}),
    MethodCase("maml-learn2learn", {"inner": GD}, "maml", True),
    MethodCase("maml-torchopt", {"inner": GD}, "maml", True),
    MethodCase("maml-torchopt", {"inner": MOMENTUM}, "maml", True),
    MethodCase("maml-jaxopt", {"inner": GD}, "maml", True),
    MethodCase("imaml-jaxopt", {"inner": GD}),
    MethodCase("maml-jax", {"inner": GD}, "maml", True),
    MethodCase("fomaml-jax", {"inner": GD}),
    MethodCase("imaml-jax", {"inner": GD}),
    MethodCase("maml-cpp", {"inner": GD}, "maml", True),
    MethodCase("fomaml-cpp"),
    MethodCase("fomaml-cpp", {"inner": {"name": "gradient_descent", "steps": 0}}, "maml", True),
    MethodCase("imaml-cpp", {"inner": GD}),
    MethodCase("imaml-torchopt", {"inner": NEWTON, "linear": "cg", "iterations": 30}, "implicit"),
    MethodCase("imaml-torchopt"),
    MethodCase("imaml-betty"),
    MethodCase("imaml-betty", {"inner": NEWTON, **SERIES, "alpha": 0.02}, "implicit"),
    MethodCase("imaml-hypergrad"),
]


@dataclass(frozen=True)
class LinearCase:
    """``error``: relative error allowed at condition number 10 and 1000, for systems with ||A|| = 1."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    error: tuple[float, float] | None = None

    @property
    def table(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


EXACT = {"name": "diagonal", "probes": 0}
LOW = {"name": "nystrom", "rank": 4, "rho": 1e-3}
LINEAR_SOLVERS = [
    LinearCase("conjugate_gradient", {"iterations": 40}, (1e-12, 1e-9)),
    LinearCase("conjugate_gradient", {"iterations": 100, "tolerance": 1e-13}, (1e-12, 1e-10)),
    LinearCase("conjugate_gradient", {"iterations": 3}),
    LinearCase("conjugate_gradient", {"iterations": 3, "tolerance": 1e-3}),
    LinearCase("conjugate_gradient", {"iterations": 40, "dots": "float64"}, (1e-12, 1e-9)),
    LinearCase("in_dtype"),
    LinearCase("in_dtype", {"linear": "dense"}, (1e-13, 1e-11)),
    LinearCase("neumann", {"iterations": 2000, "step": 1.0}, (1e-12, 0.3)),
    LinearCase("neumann", {"iterations": 400, "step": 1.0, "tolerance": 1e-13}, (1e-11, 1.0)),
    LinearCase("neumann"),
    LinearCase("dense", {}, (1e-13, 1e-11)),
    LinearCase("preconditioned_conjugate_gradient"),
    LinearCase(
        "preconditioned_conjugate_gradient", {"iterations": 40, "preconditioner": EXACT}, (1e-12, 1e-9)
    ),
    LinearCase("preconditioned_conjugate_gradient", {"iterations": 40, "preconditioner": LOW}, (1e-12, 1e-9)),
    LinearCase(
        "preconditioned_conjugate_gradient", {"iterations": 60, "tolerance": 1e-12, "preconditioner": LOW}
    ),
    LinearCase("fixed_point"),
    LinearCase("fixed_point", {"iterations": 2000, "step": 1.0}, (1e-12, 0.3)),
    LinearCase("minres", {"iterations": 30}, (1e-12, 1e-9)),
    LinearCase("minres", {"iterations": 3, "tolerance": 1e-3}),
    LinearCase("gmres", {"iterations": 12}, (1e-12, 1e-11)),
    LinearCase("gmres", {"iterations": 30, "tolerance": 1e-12}, (1e-11, 1e-9)),
    LinearCase("gmres"),
    LinearCase("nystrom"),
    LinearCase("nystrom", {"rank": 12, "rho": 0.01}, (1e-11, 1e-9)),
    LinearCase("nystrom", {"rank": 20, "rho": 0.1, "sketch": "gaussian"}, (1e-11, 1e-9)),
    LinearCase("normal_cg", {"iterations": 40}, (1e-11, 1e-2)),
    LinearCase("normal_cg"),
]

PRECONDITIONERS = [
    LinearCase("diagonal"),
    LinearCase("diagonal", {"probes": 0}),
    LinearCase("nystrom"),
    LinearCase("nystrom", {"rank": 4, "rho": 0.01}),
    LinearCase("nystrom", {"rank": 20, "rho": 0.1}),
]


@dataclass(frozen=True)
class PartCase:
    """An inner solver, a curvature or a problem: the battery decides."""

    kind: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


PARTS = [
    PartCase("inner", "gradient_descent"),
    PartCase("inner", "momentum"),
    PartCase("inner", "adam"),
    PartCase("inner", "hessian_free"),
    PartCase("inner", "closed_form"),
    PartCase("inner", "nesterov"),
    PartCase("inner", "nesterov", {"momentum": None}),
    PartCase("inner", "armijo"),
    PartCase("inner", "lbfgs"),
    PartCase("inner", "learned_rate", {"learning_rate": 0.005}),
    PartCase("inner", "in_dtype"),
    PartCase("inner", "in_dtype", {"inner": "armijo"}),
    PartCase("inner", "gradients_in"),
    PartCase("inner", "gradients_in", {"loss_scale": 256.0, "inner": "lbfgs"}),
    PartCase("inner", "gradients_in", {"loss_scale": 256.0, "dynamic": True}),
    PartCase("curvature", "exact"),
    PartCase("curvature", "finite_difference"),
    PartCase("curvature", "gauss_newton"),
    PartCase("curvature", "in_dtype"),
    PartCase("curvature", "in_dtype", {"loss_scale": 256.0, "curvature": "gauss_newton"}),
    PartCase("problem", "linear_regression"),
    PartCase("problem", "linear_regression", {"scale": 0.1, "input_scale": 3.0}),
    PartCase("problem", "learned_rate"),
    PartCase("problem", "learned_rate", {"problem": "linear_regression"}),
    PartCase("problem", "sinusoid", {"network": {"name": "mlp", "activation": "tanh"}}),
    PartCase(
        "problem", "glyphs", {"network": {"name": "mlp", "hidden": [12], "activation": "tanh"}, "ways": 3}
    ),
]


def identify(case: MethodCase | LinearCase | PartCase) -> str:
    """A test id: name and the options that differ from row to row."""

    def short(value: Any) -> str:
        if isinstance(value, dict):
            return value["name"]
        return str(value)

    return "-".join([case.name, *(f"{k}={short(v)}" for k, v in case.options.items())])
