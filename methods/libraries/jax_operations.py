"""ATen operations by their `jax.numpy` twins."""

from collections.abc import Callable

from bench.api import Declined
from methods.libraries.jax_convolution import convolution


def operations() -> dict[str, Callable]:
    """Name of an ATen operation -> the function that does the same to JAX arrays.

    Its parameters are called as in the operation's schema: `aten_to_jax` declines whatever is not among them.
    """
    import jax
    import jax.numpy as jnp

    def split_with_sizes(self, split_sizes, dim=0):
        ends = [sum(split_sizes[: i + 1]) for i in range(len(split_sizes) - 1)]
        return jnp.split(self, ends, dim)

    def sum_(self, dim=None, keepdim=False):  # to torch no dimensions are all of them
        return jnp.sum(self, tuple(dim) if dim else None, keepdims=keepdim)

    def mean(self, dim=None, keepdim=False):
        return jnp.mean(self, tuple(dim) if dim else None, keepdims=keepdim)

    def softplus(self, beta=1, threshold=20):
        return jnp.where(self * beta > threshold, self, jnp.logaddexp(self * beta, 0) / beta)

    def log_softmax(self, dim, half_to_float):
        if half_to_float:
            raise Declined("no translation of a log_softmax that changes the dtype to JAX")
        return jax.nn.log_softmax(self, dim)

    def nll_loss(self, target, weight, reduction, ignore_index):
        if weight is not None or self.ndim != 2:
            raise Declined("no translation of a weighted nll_loss, or one without a batch, to JAX")
        kept = target != ignore_index
        picked = jnp.take_along_axis(self, jnp.where(kept, target, 0)[:, None], axis=1)[:, 0]
        losses = jnp.where(kept, -picked, 0)
        return [losses, losses.sum() / kept.sum(), losses.sum()][reduction], kept.sum()

    return {
        "add": lambda self, other, alpha=1: self + alpha * other,
        "sub": lambda self, other, alpha=1: self - alpha * other,
        "mul": lambda self, other: self * other,
        "div": lambda self, other: self / other,
        "neg": lambda self: -self,
        "pow": lambda self, exponent: self**exponent,
        "exp": lambda self: jnp.exp(self),
        "tanh": lambda self: jnp.tanh(self),
        "sin": lambda self: jnp.sin(self),
        "rsqrt": lambda self: jax.lax.rsqrt(self),
        "relu": lambda self: jax.nn.relu(self),
        "softplus": softplus,
        "sum": sum_,
        "mean": mean,
        "mv": lambda self, vec: self @ vec,
        "mm": lambda self, mat2: self @ mat2,
        "addmm": lambda self, mat1, mat2, beta=1, alpha=1: beta * self + alpha * (mat1 @ mat2),
        "t": lambda self: self.T,
        "view": lambda self, size: jnp.reshape(self, size),
        "unsqueeze": lambda self, dim: jnp.expand_dims(self, dim),
        "split_with_sizes": split_with_sizes,
        "_log_softmax": log_softmax,
        "nll_loss_forward": nll_loss,
        "convolution": convolution,
    }
