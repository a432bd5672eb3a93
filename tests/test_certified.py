"""Programs of ATen operations: played in float64 they are torch's, in balls they hold the exact result."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from flint import arb, ctx
from torch.utils._python_dispatch import _disable_current_modes

from bench.certified import Balls, Floats, NotCertifiedError, Player, enclose, trace
from bench.certified.enclosure import distance, ratio, size

A = torch.linspace(-1.3, 2.1, 12, dtype=torch.float64).reshape(3, 4)
B = torch.linspace(0.7, 1.9, 12, dtype=torch.float64).reshape(3, 4).flip(1)
SQUARE = (A @ B.T).sin()
INDEX = torch.tensor([[0, 2, 1, 3], [3, 3, 0, 1], [1, 0, 2, 2]])
LABELS = torch.tensor([1, 2, 0])
READ = (B, SQUARE, INDEX, LABELS)
aten = torch.ops.aten


def gradient(f: Callable) -> Callable:
    """The gradient of the sum of f, times what makes its second derivative count."""

    def of(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (first,) = torch.autograd.grad(f(leaf).sum(), leaf, create_graph=True, materialize_grads=True)
            (second,) = torch.autograd.grad(
                (first * B).sum(), leaf, materialize_grads=True, allow_unused=True
            )
        return torch.stack([first.detach(), second])

    return of


def in_place(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    row, column = y[1], y.t()[2]
    row.mul_(3)
    column += 1
    y.view(-1)[5:7].zero_()
    return torch.cat([y, row[None], y.transpose(0, 1)[:3] @ SQUARE @ x])


def swapped(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    x.data = other
    return x


OPERATIONS: dict[str, Callable] = {
    "arithmetic": lambda x: (x + 2 * B - x / B) * 0.1 - (3 - x) / 7,
    "alpha": lambda x: torch.add(x, B, alpha=0.3) + torch.sub(B, x, alpha=2) + torch.rsub(x, 1.5),
    "powers": lambda x: x.pow(2) + x.pow(3) + B.pow(0.5) + B.pow(-0.5) + B.pow(1.3) + x.square(),
    "scalar_power": lambda x: torch.pow(0.6, torch.arange(4.0, dtype=x.dtype)) * x,
    "roots": lambda x: B.sqrt() + B.rsqrt() + B.reciprocal() + torch.hypot(x, B),
    "exponentials": lambda x: x.exp() + B.log() + B.log1p() + x.expm1() + x.sigmoid() + x.tanh(),
    "circle": lambda x: x.sin() * x.cos() + x.erf(),
    "neg_abs_sign": lambda x: -x + x.abs() + x.sign(),
    "softplus": lambda x: F.softplus(20 * x, threshold=20.0),
    "gelu_silu_elu": lambda x: (
        F.gelu(x) + F.silu(x) + F.elu(x)
    ),
    "leaky": lambda x: F.leaky_relu(x) + F.hardtanh(x),
    "compare": lambda x: torch.stack([(x > B), (x >= 0), (x < B), (x <= 1), (x == x), (x != B)]).double(),
    "logic": lambda x: torch.where(((x > 0) & ~(B > 1)) | ((x < -1) ^ (B < 1)), x, B),
    "any_all": lambda x: torch.stack([(x > 0).any(1), (x > 0).all(1), x.isfinite().all(1)]).double(),
    "where_scalars": lambda x: torch.where(x > 0, 0.1, x) + torch.where(x > 1, x, 7.0),
    "maximum": lambda x: torch.maximum(x, B) + torch.minimum(x, B) + x.clamp(-1, 1) + x.clamp(min=0.2),
    "relu": lambda x: x.relu() + gradient(torch.relu)(x)[0],
    "masked_fill": lambda x: x.masked_fill(x > 1, 0.3),
    "products": lambda x: torch.cat([x @ B.T @ x, SQUARE @ x, x.mv(B[0])[:, None].expand(3, 4)]),
    "bmm": lambda x: torch.einsum("ij,kj->ik", x, B) + torch.bmm(x[None], B.T[None])[0],
    "addmm": lambda x: torch.addmm(x, SQUARE, B, beta=0.5, alpha=2) + F.linear(x, B, B[:, 0])[:, :1],
    "dot": lambda x: torch.stack([x[0].dot(B[0]), torch.linalg.vector_norm(x), x.norm(dim=0).sum()]),
    "norms": lambda x: torch.stack([torch.linalg.vector_norm(x, p, dim=1) for p in (1, 2, math.inf)]),
    "sums": lambda x: x.sum() + x.sum(0) + x.sum(1, keepdim=True) + x.mean() + x.mean((0, 1)) + (x > 0).sum(),
    "extremes": lambda x: x.amax(1, keepdim=True) + x.amin(0) + x.amax((0, 1)) + x.amax(),
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True) + x.log_softmax(1) + x.softmax(0),
    "cross_entropy": lambda x: F.cross_entropy(x, LABELS) + gradient(
        lambda z: F.cross_entropy(z, LABELS))(x),
    "mse": lambda x: F.mse_loss(x, B) + gradient(lambda z: (z.tanh() - B).square().mean())(x),
    "views": lambda x: x.view(4, 3).t().unsqueeze(1).expand(3, 2, 4).permute(1, 0, 2)[1].reshape(1, 2, 6)[0],
    "slices": lambda x: torch.cat([x[None, 1:, ::2].squeeze(), x[:2, 1, None].expand(2, 2), x[:, 1:3]]),
    "splits": lambda x: sum(x.split([1, 3], 1)[1].unbind(1), x.split(2, 1)[0][:, 1]),
    "stack": lambda x: torch.stack([x, B], 1).flatten(1).flip(0, 1).repeat(2, 1),
    "pad": lambda x: F.pad(x, (1, -1, 0, 2), value=0.7),
    "unfold": lambda x: x.unfold(1, 2, 2).sum(-1),
    "diagonal": lambda x: (x @ B.T).diagonal(),
    "gather": lambda x: x.gather(1, INDEX[:, :2]).sum() + x.gather(0, LABELS[None, :2]).sum(),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, INDEX[:, :1], x) + x.scatter(1, INDEX[:, :2], 0.5),
    "scatter_add": lambda x: x.scatter_add(1, INDEX, B),
    "index": lambda x: x[[0, 2, 0]] + x[:, [1, 0, 3, 3]] + x.index_select(1, INDEX[0]),
    "index_put": lambda x: x.index_put((torch.tensor([0, 0, 2]),), B, accumulate=True),
    "gradient_of_views": gradient(
        lambda z: (z[1:, ::2].exp().sum() + z.view(-1)[3:7].square().sum() + z[0, 1]) ** 2),
    "gradient_of_index": gradient(lambda z: z[[0, 0, 2]].sin() * z.gather(1, INDEX)),
    "gradient_of_activations": gradient(
        lambda z: z.tanh() + z.sigmoid().log() + F.softplus(z) + z.relu() ** 2),
    "gradient_of_products": gradient(lambda z: torch.tanh(z @ B.T) @ z / z.norm()),
    "frexp": lambda x: torch.ldexp(*torch.frexp(x)) + torch.frexp(x).mantissa,
    "full": lambda x: x + torch.full_like(x, 0.1) + x.new_full((4,), 0.3) + torch.ones(4) - x.new_zeros(3, 1),
    "constants": lambda x: x * torch.tensor([0.1, 0.2, 0.3, 0.4]) + torch.eye(4)[:3] + torch.arange(4),
    "casts": lambda x: x.float().double() * x.half().to(x.dtype).detach().clone().contiguous(),
    "in_place": in_place,
    "data": lambda x: x * swapped(x + 1, x.exp()) + torch.nn.Parameter(x.tanh()).detach(),
    "logical": lambda x: torch.stack(
        [f(x > 0, B > 1) for f in (torch.logical_and, torch.logical_or, torch.logical_xor)]
    ).double() + torch.logical_not(x > 1) + torch.isnan(x) + torch.sgn(x),
    "by_name": lambda x: aten.square(x) + aten.copy(x, B) + aten.fill(x, 0.25) + aten.zero(x) + aten.alias(x),
    "fresh": lambda x: x + torch.full((3, 4), 0.2, dtype=x.dtype) + torch.zeros(4) + x.new_ones(3, 1)
    + torch.cat(aten.split(x, 2, 1), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchs(name: str) -> None:
    function = OPERATIONS[name]
    player = Player(trace(lambda x: [function(x)], [A], READ))
    for x in (A, A.flip(0) * 0.9 + 0.05):  # played, not remembered
        expected = x * x if name == "casts" else function(x.clone())  # they round in torch, and here do not
        tolerance = 1e-7 if name == "constants" else 1e-13  # torch.tensor of a list is float32 there and here
        (floats,) = player(Floats(), [x])
        np.testing.assert_allclose(floats, expected.double().numpy(), rtol=tolerance, atol=1e-13)
        with ctx.workprec(128):
            (balls,) = player(Balls(), [x])
            near = np.array([float(b.mid()) for b in balls.flat]).reshape(balls.shape)
            assert max(float(b.rad()) for b in balls.flat) < 1e-30
        np.testing.assert_allclose(near, expected.double().numpy(), rtol=tolerance, atol=1e-13)


def test_every_operator_has_been_played() -> None:
    """The table above is complete: a new operator needs a row."""
    from bench.certified.operators import OPERATORS, name_of

    played = set()
    for function in OPERATIONS.values():
        played |= {name_of(node.target) for node in trace(lambda x, f=function: [f(x)], [A], READ).nodes}
    rarely = {"_efficientzerotensor", "_local_scalar_dense", "equal", "isfinite", "scalar_tensor"}
    assert set(OPERATORS) - played <= rarely


def certified(function: Callable, *inputs: torch.Tensor, bound: float = 1e-30):
    return enclose(Player(trace(lambda *x: [function(*x)], inputs)), inputs, bound)


def test_casts_are_the_identity_and_python_numbers_are_float64():
    x = torch.tensor([0.1, 1 / 3], dtype=torch.float32)
    found = certified(lambda x: (x.half() * 0.1).float() + x.to(torch.bfloat16), x)
    with ctx.workprec(found.bits):
        for ball, value in zip(found.balls, x.tolist(), strict=True):
            assert ball.overlaps(arb(value) * (1 + arb(0.1)))
            assert not ball.overlaps(arb(value) * (1 + arb("0.1")))  # the decimal number is another one


def test_bits_are_raised_until_the_bound_holds():
    x = torch.full((1,), 0.3, dtype=torch.float64)

    def chaos(x):
        for _ in range(300):
            x = 4 * x * (1 - x)
        return x

    found = certified(chaos, x)
    assert found.bits > 300
    assert found.radius <= 1e-30
    with ctx.workprec(4000):
        exact = arb(0.3)
        for _ in range(300):
            exact = 4 * exact * (1 - exact)
        assert found.balls[0].overlaps(exact)
    assert certified(chaos, x, bound=1e-300).radius <= 1e-300


def test_a_blown_up_radius_says_where(monkeypatch):
    monkeypatch.setattr("bench.certified.enclosure.MOST_BITS", 256)

    def chaos(x):
        for _ in range(300):
            x = 4 * x * (1 - x)
        return x

    with pytest.raises(
        NotCertifiedError, match=r"blown-up radius: .* at 256 bits; .* first at aten\.\w+ \(node \d+"
    ):
        certified(chaos, torch.full((1,), 0.3, dtype=torch.float64))
    with pytest.raises(NotCertifiedError, match=r"blown-up radius: aten.gt .* undefined number is compared"):
        certified(lambda x: torch.where((x - x).log() > 0, x, 2 * x), A)


def kink(x: torch.Tensor) -> torch.Tensor:
    return (x / 3 * 3 - x).relu()  # 0, and rounding decides what it is called


def test_an_undecided_kink_names_the_operation_and_the_line():
    with pytest.raises(NotCertifiedError) as error:
        certified(gradient(kink), A)
    assert error.value.kind == "undecided kink"
    message = str(error.value)
    assert "aten.threshold_backward" in message or "aten.le" in message
    assert "ReluBackward0, asked for by tests/test_certified.py" in message
    assert "8192 bits" in message
    assert (
        abs(float(certified(lambda x: 1 + kink(x), A).balls[0].mid()) - 1) < 1e-40
    )  # its value is no question


def test_unsupported_operations_are_named_with_their_line():
    message = r"unsupported operator: aten.sort \(node \d+; tests/test_certified.py:\d+ in <lambda>\)"
    with pytest.raises(NotCertifiedError, match=message):
        certified(lambda x: x.sort(1).values, A)
    with pytest.raises(NotCertifiedError, match=r"prims\.remainder .*as a part of aten\.remainder, tests/"):
        certified(lambda x: x % 3, A)
    with pytest.raises(NotCertifiedError, match="an index that is a mask in aten"):
        certified(lambda x: x[x > 0], A)
    with pytest.raises(NotCertifiedError, match=r"real numbers that become whole ones in aten\._to_copy"):
        certified(lambda x: x * x.long(), A)
    with pytest.raises(NotCertifiedError, match=r"unsupported operator: aten\.add\.out"):
        certified(lambda x: torch.add(x, x, out=torch.empty_like(x)), A)
    with pytest.raises(NotCertifiedError, match=r"unsupported operator: aten\.t_"):
        certified(lambda x: x.clone().t_(), A)


def test_what_nothing_needs_may_be_unsupported():
    assert certified(lambda x: (x.sort(), x + 1)[1], A).nodes == 1


def unseen(x: torch.Tensor) -> torch.Tensor:
    """As an extension in C++ does."""
    with _disable_current_modes():
        return x + 1


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (lambda x: x * x.tolist()[0][0], "`tolist`"),
        (lambda x: x * float(x.numpy()[0, 0]), "`numpy`"),
        (lambda x: x * np.asarray(x)[0, 0], "`__array__`|`numpy`"),
        (lambda x: x * copy.deepcopy(x), "`__deepcopy__`"),
        (lambda x: x * unseen(x), "no operation that can be seen"),
        (lambda x: x * swapped(x + 1, unseen(x)), "no operation that can be seen"),
    ],
)
def test_numbers_do_not_leave_unseen(function, seen):
    with pytest.raises(NotCertifiedError, match=rf"hidden numbers: .*({seen}).*tests/test_certified.py"):
        certified(function, A)


OUTSIDE = torch.tensor([0.5, 0.25, 3.0, 1.0], dtype=torch.float64)


def test_tensors_from_before_are_constants():
    halves = OUTSIDE.clone().split(2)
    found = certified(
        lambda x: x + OUTSIDE[1:2] + halves[0][0] + halves[1][1] + torch.from_numpy(np.ones(4)), A
    )
    assert float(found.balls[0].mid()) == float(A[0, 0]) + 2.75
    with pytest.raises(NotCertifiedError, match="from outside is changed in place"):
        certified(lambda x: x + halves[0][0] + halves[1].mul_(2)[0], A)


def test_a_branch_is_verified():
    def steps(x):
        while x.square().sum() > 1:
            x = x / 2
        return x

    found = certified(steps, A)
    assert [float(b.mid()) for b in found.balls] == steps(A).flatten().tolist() == (A / 4).flatten().tolist()


def test_a_branch_that_rounding_took_is_refused():
    x = torch.tensor([1.0, 2.0**-30], dtype=torch.float32)  # their sum rounds to 1

    def fork(x):
        return x * 3 if x.sum() > 1 else x * 5

    with pytest.raises(
        NotCertifiedError, match=r"baked branch: .*with False from .*exact arithmetic has True"
    ):
        certified(fork, x)
    with pytest.raises(NotCertifiedError, match=r"baked branch: .*with 1.0 from .* has another number"):
        certified(lambda x: x * x.sum().item(), x)
    with pytest.raises(NotCertifiedError, match=r"baked branch: .*with True from aten.equal.* has False"):
        certified(lambda x: x * 3 if torch.equal(x.sum(), x[0]) else x, x)
    kept = Player(trace(lambda x: [fork(x)], [x], answers=[True]))
    assert float(enclose(kept, [x]).balls[0].mid()) == 3


def test_numbers_that_no_rounding_touched_may_be_taken_out():
    found = certified(lambda x: x * x[0, 0].item() + (x.shape[0] - INDEX[0, 1].item()), A)
    assert found.balls[0].overlaps(arb(float(A[0, 0])) ** 2 + 1)


def test_distances_are_bounded_from_both_sides():
    with ctx.workprec(200):
        a, b = (np.array([arb(3, r), arb(0, r)], object) for r in (arb("1e-20"), arb("1e-25")))
        b = b + np.array([arb(0), arb(4)], object)
        low, high = ratio(distance(a, b), size(b))
        assert low < 0.8 < high
        assert high - low < 1e-15
        assert ratio(distance(a, a), size(a))[0] == 0
        assert 0 < ratio(distance(a, a), size(a))[1] < 2e-20
        assert ratio(distance(a, b), size(a - a)) == (pytest.approx(5 / 2e-20, rel=1), math.inf)


def test_time_runs_out_at_an_operation():
    program = trace(lambda x: [x + 1], [A])
    with pytest.raises(NotCertifiedError, match=r"out of time: it had come to aten\.add") as error:
        enclose(Player(program), [A], seconds=-1)
    assert error.value.kind == "out of time"
