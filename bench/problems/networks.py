"""Networks as functions of one flat parameter vector.

The MLP starts as `torch.nn.Linear` does: weights and biases uniform on [-b, b], b = 1 / sqrt(fan_in).
The convolutional network's weights start uniform with b = sqrt(6 / fan_in) before a ReLU (He et al. 2015) and
b = sqrt(6 / (fan_in + fan_out)) in the last layer (Glorot and Bengio 2010), its biases uniform on [0, 0.05],
as in the code of iMAML: 0 would put blank parts of an image exactly on the ReLU's kink. Batch norm starts
with scale 1 and shift 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod, sqrt
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, linear, softplus

from bench.api import Network, Vector, require
from bench.registry import register

Shape = tuple[int, ...]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "softplus": softplus,
}


@register("network", "mlp")
@dataclass(frozen=True)
class MLP(Network):
    """Fully connected network: affine maps with an activation between them; inputs are flattened.

    hidden: widths of the hidden layers, first to last; none makes it one affine map.
    activation: "tanh" and "softplus" are smooth, which finite differences and curvature need.
    """

    hidden: tuple[int, ...] = (40, 40)
    activation: Literal["relu", "tanh", "softplus"] = "relu"

    def __post_init__(self) -> None:
        require(all(width >= 1 for width in self.hidden), "hidden", self.hidden, "widths of 1 or more")
        require(self.activation in ACTIVATIONS, "activation", self.activation, ", ".join(ACTIVATIONS))

    def size(self, in_shape: Shape, n_out: int) -> int:
        return sum(map(prod, self._shapes(prod(in_shape), n_out)))

    def init(self, generator: torch.Generator, in_shape: Shape, n_out: int) -> Vector:
        leaves = []
        for shape in self._shapes(prod(in_shape), n_out)[::2]:
            bound = 1 / sqrt(shape[1])
            leaves += [_uniform(generator, shape, bound), _uniform(generator, shape[:1], bound)]
        return _flat(leaves)

    def forward(self, phi: Vector, x: Float[Tensor, "n ..."], n_out: int) -> Float[Tensor, "n out"]:
        h = x.flatten(1)
        leaves = _leaves(phi, self._shapes(h.shape[1], n_out))
        for weight, bias in zip(leaves[:-2:2], leaves[1:-2:2], strict=True):
            h = ACTIVATIONS[self.activation](linear(h, weight, bias))
        return linear(h, leaves[-2], leaves[-1])

    def _shapes(self, n_in: int, n_out: int) -> list[Shape]:
        widths = (n_in, *self.hidden, n_out)
        shapes: list[Shape] = []
        for fan_in, fan_out in pairwise(widths):
            shapes += [(fan_out, fan_in), (fan_out,)]
        return shapes


@register("network", "conv4")
@dataclass(frozen=True)
class Conv4(Network):
    """The convolutional network of MAML and iMAML (Finn et al. 2017, Rajeswaran et al. 2019).

    4 x (3 x 3 convolution with bias, padding 1; batch norm; ReLU), flatten, one affine map. Every block
    halves height and width: by a stride of 2, as for Omniglot there, or by the maximum of 2 x 2, as for
    mini-ImageNet there, with 32 filters. Batch norm is transductive: it always uses the statistics of the
    batch at hand, support or query.

    filters: channels of every convolution.
    norm: "batch", or "none" for no normalisation and no scale and shift.
    pooling: "stride" (rounds up), or "max" (rounds down, so that images must be 16 x 16 or larger).
    """

    filters: int = 64
    norm: Literal["batch", "none"] = "batch"
    pooling: Literal["stride", "max"] = "stride"
    later: ClassVar[tuple[str, ...]] = ("pooling",)

    batching = "loop"

    def __post_init__(self) -> None:
        require(self.filters >= 1, "filters", self.filters, "1 or more")
        require(self.norm in ("batch", "none"), "norm", self.norm, "batch, none")
        require(self.pooling in ("stride", "max"), "pooling", self.pooling, "stride, max")

    def size(self, in_shape: Shape, n_out: int) -> int:
        return sum(map(prod, self._shapes(in_shape, n_out)))

    def init(self, generator: torch.Generator, in_shape: Shape, n_out: int) -> Vector:
        if self.pooling == "max":
            require(min(in_shape[1:]) >= 16, "in_shape", in_shape, "images of 16 x 16 or larger")
        *_, last, _ = shapes = self._shapes(in_shape, n_out)
        leaves = []
        for shape in (s for s in shapes if len(s) == 4):
            leaves += [_he(generator, shape), _small(generator, shape[:1])]
            if self.norm == "batch":
                leaves += [_constant(1.0, shape[:1]), _constant(0.0, shape[:1])]
        return _flat([*leaves, _glorot(generator, last), _small(generator, last[:1])])

    def forward(self, phi: Vector, x: Float[Tensor, "n c h w"], n_out: int) -> Float[Tensor, "n out"]:
        leaves = iter(_leaves(phi, self._shapes(tuple(x.shape[1:]), n_out)))
        h = x
        for _ in range(4):
            h = conv2d(h, next(leaves), next(leaves), stride=2 if self.pooling == "stride" else 1, padding=1)
            if self.norm == "batch":
                h = batch_norm(h, next(leaves), next(leaves))
            h = torch.relu(h)
            if self.pooling == "max":
                h = max_pool(h)
        return linear(h.flatten(1), next(leaves), next(leaves))

    def _shapes(self, in_shape: Shape, n_out: int) -> list[Shape]:
        channels, height, width = in_shape
        shapes: list[Shape] = []
        for _ in range(4):
            per_channel = 3 if self.norm == "batch" else 1  # bias; scale and shift
            shapes += [(self.filters, channels, 3, 3), *[(self.filters,)] * per_channel]
            odd = 1 if self.pooling == "stride" else 0
            channels, height, width = self.filters, (height + odd) // 2, (width + odd) // 2
        return [*shapes, (n_out, channels * height * width), (n_out,)]


def batch_norm(
    x: Float[Tensor, "n c h w"], scale: Float[Tensor, " c"], shift: Float[Tensor, " c"], eps: float = 1e-5
) -> Float[Tensor, "n c h w"]:
    """Batch norm with the statistics of ``x`` (biased variance over n, h and w), learned scale and shift.

    Written out because torch 2.13 differentiates `F.batch_norm` with batch statistics under vmap wrongly.
    """
    centred = x - x.mean(dim=(0, 2, 3), keepdim=True)
    variance = centred.square().mean(dim=(0, 2, 3), keepdim=True)
    return centred * torch.rsqrt(variance + eps) * scale[:, None, None] + shift[:, None, None]


def max_pool(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """The maximum of every 2 x 2 block; an odd last row or column is left out.

    In elementary operations: all that batches, compiles and certifies knows them. Where the largest are equal
    (after a ReLU all may be 0) the derivative is shared among them.
    """
    n, channels, height, width = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    blocks = x[:, :, : 2 * height, : 2 * width].reshape(n, channels, height, 2, width, 2)
    return blocks.amax(dim=(3, 5))


def _leaves(phi: Vector, shapes: list[Shape]) -> list[Tensor]:
    """The layers' tensors, as views of the flat vector."""
    parts = phi.split([prod(shape) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _flat(leaves: list[Tensor]) -> Vector:
    return torch.cat([leaf.flatten() for leaf in leaves])


def _he(generator: torch.Generator, shape: Shape) -> Tensor:
    return _uniform(generator, shape, sqrt(6 / prod(shape[1:])))


def _glorot(generator: torch.Generator, shape: Shape) -> Tensor:
    receptive = prod(shape[2:])
    return _uniform(generator, shape, sqrt(6 / ((shape[0] + shape[1]) * receptive)))


def _uniform(generator: torch.Generator, shape: Shape, bound: float) -> Tensor:
    return bound * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)


def _small(generator: torch.Generator, shape: Shape) -> Tensor:
    return 0.05 * torch.rand(shape, generator=generator, dtype=torch.float64)


def _constant(value: float, shape: Shape) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)
