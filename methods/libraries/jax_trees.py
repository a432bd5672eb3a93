"""Parameters as a tree of leaves, which is how JAX programs carry them, and its vector operations."""

from collections.abc import Callable
from typing import Any

import numpy as np

from methods.libraries.aten_to_jax import Translation


def by_leaves(flat: np.ndarray, *losses: Translation) -> tuple[Callable, Callable, list[Callable]]:
    """The maps from a vector like ``flat`` to leaves and back, and the losses as functions of the leaves.

    The vector is its own only leaf where the losses cut it differently, or use a part twice or never.
    """
    import jax

    first, *_ = losses
    places = [[np.asarray(leaf) for leaf in loss.leaves(np.arange(len(flat)))] for loss in losses]
    same = all(
        len(other) == len(places[0]) and all(map(np.array_equal, other, places[0])) for other in places
    )
    used = np.concatenate([leaf.ravel() for leaf in places[0]])
    if not same or not np.array_equal(np.sort(used), np.arange(len(flat))):
        return lambda vector: [vector], lambda leaves: leaves[0], [_of_flat(loss) for loss in losses]
    back = jax.linear_transpose(first.leaves, flat)  # of a permutation: its inverse
    return first.leaves, lambda leaves: back(leaves)[0], [loss.of_leaves for loss in losses]


def _of_flat(loss: Translation) -> Callable:
    return lambda leaves, *others: loss(leaves[0], *others)


def add(x: Any, alpha: Any, y: Any) -> Any:
    """x + alpha y."""
    import jax

    return jax.tree.map(lambda a, b: a + alpha * b, x, y)


def dot(x: Any, y: Any) -> Any:
    import jax

    return sum((a * b).sum() for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))
