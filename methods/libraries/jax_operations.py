"""ATen operations by their `jax.numpy` twins."""

from collections.abc import Callable

from bench.api import Declined


def operations() -> dict[str, Callable]:
    """Name of an ATen operation -> the function that does the same to JAX arrays."""
    import jax
    import jax.numpy as jnp

    def split(x, sizes, axis=0):
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        return jnp.split(x, ends, axis)

    def mean(x, axes=None, keepdim=False):
        return jnp.mean(x, None if axes is None else tuple(axes), keepdims=keepdim)

    def nll_loss(logp, target, weight, reduction, ignore):
        if weight is not None or reduction != 1:
            raise Declined("no translation of a weighted or unreduced nll_loss to JAX")
        return (-jnp.mean(jnp.take_along_axis(logp, target[:, None], axis=1)), None)

    def convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
        if transposed or groups != 1:
            raise Declined("no translation of a transposed or grouped convolution to JAX")
        pads = [(p, p) for p in padding]
        y = jax.lax.conv_general_dilated(x, weight, stride, pads, rhs_dilation=dilation)
        return y if bias is None else y + bias[:, None, None]

    return {
        "add": lambda a, b, alpha=1: a + alpha * b,
        "sub": lambda a, b, alpha=1: a - alpha * b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "pow": lambda a, b: a**b,
        "exp": jnp.exp,
        "tanh": jnp.tanh,
        "sin": jnp.sin,
        "rsqrt": jax.lax.rsqrt,
        "relu": jax.nn.relu,
        "softplus": jax.nn.softplus,
        "sum": jnp.sum,
        "mean": mean,
        "mv": lambda a, b: a @ b,
        "mm": lambda a, b: a @ b,
        "addmm": lambda bias, a, b: bias + a @ b,
        "t": lambda a: a.T,
        "view": jnp.reshape,
        "unsqueeze": jnp.expand_dims,
        "split_with_sizes": split,
        "_log_softmax": lambda a, dim, _: jax.nn.log_softmax(a, dim),
        "nll_loss_forward": nll_loss,
        "convolution": convolution,
    }
