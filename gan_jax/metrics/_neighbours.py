"""Distances from many points to many others, a block of points at a time: no matrix of all pairs is ever held."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

_BLOCK = 128  # rows of distances: to 50,000 others 50 MB


def centred(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets in float64 with the mean of the first at the origin, where products cancel the least."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return first - first.mean(axis=0), second - first.mean(axis=0)


def in_blocks(function: Callable[..., Any], *arrays: Array) -> Any:
    """Map a function over the leading axes of arrays."""
    return lax.map(lambda each: function(*each), arrays, batch_size=_BLOCK)


def squared_distances(
    point: Float[Array, " F"], others: Float[Array, "N F"]
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """Return the squared distances [N] from a point, at least 0, and a bound on how far rounding is off [N].

    As |x|² + |y|² − 2xy: a matrix product, where a block of differences would be F times as large. A sum of F
    products is off by F/2 epsilons of its terms' sizes at most, so a difference of these by twice that.
    """
    sizes = jnp.sum(jnp.square(point)) + jnp.sum(jnp.square(others), axis=-1)
    squares = sizes - 2.0 * jnp.matmul(others, point, precision=lax.Precision.HIGHEST)
    return jnp.maximum(squares, 0.0), sizes * (point.size * jnp.finfo(point.dtype).eps)
