"""Other libraries as they are: those that are right agree with ours, the faults of the others are measured.

A library that is not installed skips its tests with the command that installs it: `make libraries`.
"""

import os
import subprocess
import sys
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from bench import registry
from bench.api import Bilevel, Declined
from bench.reference import implicit_reference, maml_reference
from bench.registry import build, get, names, unavailable
from bench.testing.samples import draw, regression, sinusoid
from tests.cases import ADAM, GD, MOMENTUM

CG = {"name": "conjugate_gradient", "iterations": 5}
SERIES = {"name": "neumann", "iterations": 5, "step": 0.02}


def adapter(name: str, **fields):
    method = build("method", {"name": name, **fields})
    if reason := unavailable(method):
        pytest.skip(reason)
    return method


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("sample", [regression, sinusoid])
@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("maml-higher", GD),
        ("maml-higher", MOMENTUM),
        ("maml-learn2learn", GD),
        ("maml-torchopt", GD),
        ("maml-torchopt", MOMENTUM),
        ("maml-jaxopt", GD),
        ("maml-jax", GD),
    ],
)
def test_exact_maml_of_a_library_is_ours(sample, name: str, inner: dict) -> None:
    method = adapter(name, inner=inner)
    assert error(method(sample()).meta_grad, maml_reference(sample(), method.inner).value) < 1e-12


@pytest.mark.parametrize("sample", [regression, sinusoid])
@pytest.mark.parametrize(
    ("name", "fields", "linear"),
    [
        ("imaml-torchopt", {"linear": "cg"}, CG),
        ("imaml-torchopt", {"linear": "normal_cg"}, {**CG, "name": "normal_cg"}),
        ("imaml-jaxopt", {}, CG),
        ("imaml-jax", {}, CG),
        ("imaml-betty", {"linear": "neumann", "alpha": 0.02}, SERIES),
        ("imaml-hypergrad", {"linear": "neumann", "step": 0.02}, SERIES),
    ],
)
def test_imaml_of_a_library_is_ours_after_the_same_iterations(sample, name, fields, linear) -> None:
    """After as few iterations as do not converge: the iterates agree, not just the limits."""
    ours = build("method", {"name": "imaml", "inner": GD, "linear": linear})(sample())
    theirs = adapter(name, inner=GD, **fields)(sample())
    assert error(theirs.meta_grad, ours.meta_grad) < 1e-10
    assert torch.allclose(theirs.adapted, ours.adapted, rtol=1e-12)
    assert error(ours.meta_grad, implicit_reference(sample()).value) > 1e-7


@pytest.mark.parametrize("name", ["imaml-betty", "imaml-hypergrad"])
def test_cg_with_the_old_residual_in_its_direction_is_wrong(name: str) -> None:
    """betty-ml 0.2.1 and hypergrad 0.0.1, on a system with condition number below 2: 11 % off at 5 iterations
    where conjugate gradient is at 1e-5. If this fails, a new release mended it."""
    bilevel = sinusoid()
    wanted = implicit_reference(bilevel).value
    solved = {"inner": {"name": "hessian_free", "steps": 60, "tolerance": 1e-9}}
    assert error(build("method", {"name": "imaml", **solved})(bilevel).meta_grad, wanted) < 1e-4
    assert error(adapter(name, **solved)(bilevel).meta_grad, wanted) > 0.05


def test_bettys_cg_is_wrong_in_scale_unless_alpha_is_one() -> None:
    bilevel = sinusoid()
    one, half = (adapter("imaml-betty", alpha=a, iterations=1)(bilevel).meta_grad for a in (1.0, 0.5))
    assert error(half, one) < 1e-12  # at the first iteration the two scalings cancel
    one, half = (adapter("imaml-betty", alpha=a, iterations=5)(bilevel).meta_grad for a in (1.0, 0.5))
    assert error(half, one) > 1


def test_higher_with_adam_is_wrong_where_ours_is_right() -> None:
    """The misplaced epsilon of higher 0.2.1: if this fails, a new release mended it."""
    bilevel = sinusoid()
    exact = maml_reference(bilevel, build("inner", ADAM)).value
    assert error(build("method", {"name": "maml", "inner": ADAM})(bilevel).meta_grad, exact) < 1e-10
    assert error(adapter("maml-higher", inner=ADAM)(bilevel).meta_grad, exact) > 1e-3


def test_torchopt_with_adam_is_right_to_its_own_rounding() -> None:
    bilevel = sinusoid()
    exact = maml_reference(bilevel, build("inner", ADAM)).value
    assert error(adapter("maml-torchopt", inner=ADAM)(bilevel).meta_grad, exact) < 1e-5


@pytest.mark.parametrize(
    ("name", "fields", "at_fault"),
    [
        ("imaml-betty", {}, True),
        ("imaml-betty", {"linear": "neumann"}, False),
        ("imaml-hypergrad", {}, True),
        ("imaml-hypergrad", {"linear": "neumann"}, False),
        ("maml-higher", {"inner": ADAM}, True),
        ("maml-higher", {}, False),
    ],
)
def test_known_faults_are_those_of_an_option(name: str, fields: dict, at_fault: bool) -> None:
    assert (build("method", {"name": name, **fields}).known_fault() is not None) == at_fault


@pytest.mark.parametrize("name", ["imaml-torchopt", "imaml-betty", "imaml-hypergrad"])
def test_an_adapter_around_our_inner_solver_passes_on_what_it_says(name: str) -> None:
    inner = {"name": "lbfgs", "steps": 2, "tolerance": 1e-3}
    theirs = adapter(name, inner=inner)(regression())
    phi, converged, stats = build("inner", inner)(regression(), regression().start)
    assert not converged.any()
    assert torch.equal(theirs.converged, converged)
    assert theirs.stats.keys() == stats.keys()
    assert torch.equal(theirs.adapted, phi)


@pytest.mark.parametrize("name", ["imaml-torchopt", "imaml-hypergrad"])
def test_a_warning_to_the_librarys_authors_stays_with_them(name: str) -> None:
    method = adapter(name)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        method(regression())
    assert not [w for w in seen if "functorch" in str(w.message)]


@pytest.mark.parametrize("name", ["maml-jaxopt", "imaml-jaxopt", "maml-jax", "fomaml-jax", "imaml-jax"])
def test_jax_without_steps_is_at_theta(name: str) -> None:
    inner = {"name": "gradient_descent", "steps": 0}
    got = adapter(name, inner=inner)(regression())
    ours = build("method", {"name": name.partition("-")[0], "inner": inner})(regression())
    assert error(got.meta_grad, ours.meta_grad) < 1e-12
    assert torch.equal(got.adapted, regression().start)


def convolutional(n_tasks: int = 2) -> Bilevel:
    """Glyphs on a small convolutional network, which is run task after task."""
    network = {"name": "conv4", "filters": 3}
    fields = {"name": "glyphs", "strength": 20.0, "ways": 2, "queries": 2, "network": network}
    return draw(build("problem", fields), n_tasks)


@pytest.mark.parametrize("sample", [regression, sinusoid, convolutional])
@pytest.mark.parametrize("name", ["maml-jax", "fomaml-jax", "imaml-jax", "maml-jaxopt", "imaml-jaxopt"])
def test_jax_is_ours_on_every_kind_of_problem(sample, name: str) -> None:
    inner = {"name": "gradient_descent", "steps": 3, "learning_rate": 0.01}
    got = adapter(name, inner=inner)(sample())
    ours = build("method", {"name": name.partition("-")[0], "inner": inner})(sample())
    assert error(got.meta_grad, ours.meta_grad) < 1e-10
    assert error(got.adapted, ours.adapted) < 1e-12


@pytest.mark.parametrize("name", ["maml-jax", "fomaml-jax", "imaml-jax"])
def test_plain_jax_has_gradient_descent_only(name: str) -> None:
    with pytest.raises(Declined, match="momentum"):
        adapter(name, inner=MOMENTUM)(regression())


def test_plain_imaml_in_jax_of_a_query_gradient_of_zero_is_zero() -> None:
    bilevel = regression()
    blind = replace(bilevel.tasks, query_x=torch.zeros_like(bilevel.tasks.query_x))
    assert not adapter("imaml-jax", inner=GD)(Bilevel(bilevel.problem, blind, bilevel.meta)).meta_grad.any()


def test_jax_leaves_a_gpu_alone() -> None:
    adapter("maml-jax")
    code = """
import torch
from bench.api import Bilevel
from bench.registry import build
problem, generator = build("problem", {"name": "linear_regression", "dim": 3}), torch.Generator()
bilevel = Bilevel(problem, problem.sample(generator, 2), problem.init(generator))
grad = build("method", "maml-jax")(bilevel).meta_grad
import jax
print(grad.device, *{device.platform for device in jax.devices()})
"""
    environment = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "cpu"]


def test_jax_hands_over_a_gradient_that_is_the_callers_own() -> None:
    method = adapter("maml-jax", inner=GD)
    first = method(regression()).meta_grad
    kept = first.clone()
    method(regression(strength=3.0))
    assert torch.equal(first, kept)
    first.zero_()  # writable
    assert torch.equal(method(regression()).meta_grad, kept)


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([1, 0, -100, 1])
IMAGES = torch.arange(2 * 3 * 36, dtype=torch.float64).reshape(2, 3, 6, 6).sin()
KERNEL, BIAS = torch.arange(108, dtype=torch.float64).reshape(4, 3, 3, 3).cos(), torch.ones(4).double()


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x, t: functional.cross_entropy(x, t, ignore_index=1), (X, LABELS.clamp_min(0))),
        (lambda x, t: functional.cross_entropy(x, t), (X, LABELS)),
        (lambda x, t: functional.cross_entropy(x, t, reduction="sum"), (X, LABELS)),
        (lambda x, t: functional.cross_entropy(x, t, reduction="none"), (X, LABELS)),
        (lambda x: x.sum(1, keepdim=True), (X,)),
        (lambda x: x.sum(()), (X,)),
        (lambda x: x.mean(0, keepdim=True), (X,)),
        (lambda x: functional.softplus(x, beta=3.0), (40 * X,)),
        (lambda x: functional.softplus(x, threshold=0.5), (X,)),
        (lambda x: torch.sub(x, x.exp(), alpha=3), (X,)),
        (lambda x: torch.addmm(x.t(), x.t(), x @ x.t(), beta=0.5, alpha=2.0).t(), (X,)),
        (lambda x, w, b: functional.conv2d(x, w, b, stride=2, padding=1, dilation=2), (IMAGES, KERNEL, BIAS)),
        (lambda x, w, b: functional.conv1d(x, w, b, padding=1), (IMAGES[:, :, 0], KERNEL[:, :, 0], BIAS)),
    ],
)
def test_a_translated_operation_is_torchs(function, inputs: tuple[torch.Tensor, ...]) -> None:
    adapter("maml-jaxopt")
    import jax

    from methods.libraries.aten_to_jax import Translation

    with jax.enable_x64(True):
        got = Translation(function, *inputs)(*(x.numpy() for x in inputs))
    torch.testing.assert_close(torch.from_numpy(np.array(got)), function(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 7), (8, 5), (28, 28)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 2)])
@pytest.mark.parametrize("options", [
    {"stride": 1},
    {"stride": 2, "padding": 1},
    {"stride": (1, 2), "padding": (2, 0)},
    {"stride": 2, "padding": 2, "dilation": 2},
    {"padding": (0, 1), "dilation": (1, 2)},
], ids=str)  # fmt: skip
def test_a_convolution_and_its_gradients_are_torchs(size, kernel, options) -> None:
    adapter("maml-jax")
    import jax

    from methods.libraries.aten_to_jax import Translation

    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 3, *size), (4, 3, *kernel), (4,))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]

    def function(x, weight, bias):
        return functional.conv2d(x, weight, bias, **options)

    wanted = function(*inputs)
    cotangent = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(wanted, inputs, cotangent)
    with jax.enable_x64(True):
        got, pull = jax.vjp(Translation(function, *inputs), *(x.detach().numpy() for x in inputs))
        for one, other in zip((got, *pull(cotangent.numpy())), (wanted, *gradients), strict=True):
            torch.testing.assert_close(torch.tensor(np.array(one)), other.detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cut", [(2, 4), (4, 2), (2, 2, 2)])
def test_parameters_become_leaves_only_where_both_losses_cut_them_alike(cut: tuple[int, ...]) -> None:
    adapter("maml-jax")
    from methods.libraries.aten_to_jax import Translation
    from methods.libraries.jax_trees import by_leaves

    phi = torch.arange(6.0)

    def loss(cut: tuple[int, ...]) -> Translation:
        return Translation(lambda p: sum(x.view(1, -1).t().exp().sum() for x in p.split(cut)), phi)

    losses = (loss((2, 4)), loss(cut))
    to_leaves, to_flat, of_leaves = by_leaves(phi.numpy(), *losses)
    leaves = to_leaves(phi.numpy())
    assert len(leaves) == (2 if cut == (2, 4) else 1)
    assert np.array_equal(to_flat(leaves), phi)
    for one, whole in zip(of_leaves, losses, strict=True):
        assert one(leaves) == pytest.approx(float(whole(phi.numpy())))


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (lambda x, t: x.sum(dtype=torch.float32), "argument dtype"),
        (lambda x, t: x.sum(1, dtype=torch.float32), "argument dtype"),
        (lambda x, t: x.mean(dtype=torch.float32), "argument dtype"),
        (lambda x, t: torch.div(x, 0.7, rounding_mode="floor"), "argument rounding_mode"),
        (lambda x, t: x.view(torch.int64), "argument dtype"),
        (lambda x, t: functional.cross_entropy(x, t, weight=x.mean(0)), "weighted nll_loss"),
    ],
)
def test_an_argument_without_a_translation_is_declined(function, argument: str) -> None:
    adapter("maml-jaxopt")
    from methods.libraries.aten_to_jax import Translation

    with pytest.raises(Declined, match=argument):
        Translation(function, X, LABELS)(X.numpy(), LABELS.numpy())


def _half_constant(x, t):
    with torch.no_grad():
        scale = x.exp()
    return (x * scale).sum()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_half_constant, "no_grad.*aten.exp"),
        (lambda x, t: (x.detach() * x).sum(), "detach"),
        (lambda x, t: x.sum() * len(set(t.tolist())), "value of a tensor"),
        (lambda x, t: x.sum() if x.max() > 0 else x.prod(), "value of a tensor"),
    ],
)
def test_what_a_graph_cannot_say_is_declined(function, reason: str) -> None:
    adapter("maml-jax")
    from methods.libraries.aten_to_jax import Translation

    with pytest.raises(Declined, match=reason):
        Translation(function, X, LABELS)


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_a_torch_loss_translates_to_jax(activation: str) -> None:
    for problem in (
        {"name": "sinusoid", "network": {"name": "mlp", "activation": activation}},
        {"name": "glyphs", "network": {"name": "mlp", "hidden": [4], "activation": activation}, "queries": 2},
    ):
        bilevel = draw(build("problem", problem), 2)
        inner = {"name": "gradient_descent", "steps": 2, "learning_rate": 0.01}
        method = adapter("maml-jaxopt", inner=inner)
        assert error(method(bilevel).meta_grad, maml_reference(bilevel, method.inner).value) < 1e-10


def test_an_unknown_operation_is_declined_by_name() -> None:
    adapter("maml-jaxopt")
    from methods.libraries.aten_to_jax import Translation

    with pytest.raises(Declined, match="erfinv"):
        Translation(lambda x: x.erfinv().sum(), torch.zeros(3))


def test_a_missing_package_is_said_with_the_command_that_installs_it(monkeypatch) -> None:
    cls = get("method", "maml-torchopt")
    monkeypatch.setattr(cls, "needs", ("no-such-package>=3",))
    assert unavailable(cls) == "no-such-package is not installed; pip install 'no-such-package>=3'"
    monkeypatch.setattr(cls, "needs", ("torch>=99",))
    assert str(unavailable(cls)).endswith("is installed; pip install 'torch>=99'")


def test_every_need_is_an_extra_or_a_dependency_of_the_project() -> None:
    """And every extra is somebody's need: records list the versions of what a method needs."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = {one for key, group in project["optional-dependencies"].items() if key != "dev" for one in group}
    needs = {
        one for kind in registry.KINDS for name in names(kind) for one in get(kind, name).needs
        if get(kind, name).__module__.startswith("methods")
    }  # fmt: skip
    assert extras <= needs <= extras | set(project["dependencies"])
    assert get("method", "maml-higher").needs
