"""Where generators draw from: functions `(key, n) -> [n, dim]`, and the path between two draws.

`normal` and `sphere` share their mean and covariance, so that one can stand in for the other in a
network initialised for either; `uniform` and `truncated` are narrower.
"""

import math
from collections.abc import Callable
from numbers import Real

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gan_jax.base import Key

Latent = Callable[[Key, int], Float[Array, "n dim"]]
Scalar = int | float | Float[Array, ""]


def normal(dim: int) -> Latent:
    """Draw from N(0, I).

    Raises:
        ValueError: a dim below 1.
    """
    _check_dim("normal", dim)
    return lambda key, n: jax.random.normal(key, (n, dim))


def uniform(dim: int) -> Latent:
    """Draw from the cube [−1, 1)^dim, of variance ⅓ in each coordinate.

    Raises:
        ValueError: a dim below 1.

    Radford et al. 2016 (arXiv 1511.06434), section 3.
    """
    _check_dim("uniform", dim)
    return lambda key, n: jax.random.uniform(key, (n, dim), minval=-1.0, maxval=1.0)


def sphere(dim: int) -> Latent:
    """Draw uniformly from the sphere of radius √dim, whose mean is 0 and whose covariance is I.

    Raises:
        ValueError: a dim below 1.

    White 2016 (arXiv 1609.04468); Karras et al. 2018 (arXiv 1710.10196), appendix A.1.
    """
    _check_dim("sphere", dim)

    def draw(key: Key, n: int) -> Float[Array, "n dim"]:
        draws = jax.random.normal(key, (n, dim))
        # Few bits reach the centre of a float32 normal: with dim = 1 a draw is exactly 0 once in millions.
        draws = jnp.where(jnp.any(draws != 0, axis=-1, keepdims=True), draws, 1.0)
        return draws * (math.sqrt(dim) / jnp.linalg.norm(draws, axis=-1, keepdims=True))

    return draw


def truncated(dim: int, bound: Scalar = 2.0) -> Latent:
    """Draw each coordinate from N(0, 1) conditioned on [−bound, bound].

    A small bound trades variety for fidelity in a generator that was trained with `normal`.

    Raises:
        ValueError: a dim below 1, or a bound that is not positive.

    Brock et al. 2019 (arXiv 1809.11096), section 3.1.
    """
    _check_dim("truncated", dim)
    if isinstance(bound, Real) and not bound > 0:
        raise ValueError(f"truncated(bound={bound}) leaves nothing to draw: give a bound above 0, such as 2.0")
    return lambda key, n: jax.random.truncated_normal(key, -bound, bound, (n, dim))


def slerp(a: Float[Array, "*batch dim"], b: Float[Array, "*batch dim"], t: Scalar) -> Float[Array, "*batch dim"]:
    """Go the fraction t of the great circle from a to b: (sin((1−t)ω)·a + sin(tω)·b) / sin ω.

    ω is the angle between the two. Vectors of equal norm keep it on the way, as the draws of a
    high-dimensional normal all but have; the straight line cuts through a centre where none lie.
    Where there is no one great circle (parallel or opposite vectors, or a zero) it is the straight
    line, and gradients are finite. For a path, map over t: `jax.vmap(slerp, (None, None, 0))`.

    Shoemake 1985 (doi 10.1145/325165.325242), section 3.3; White 2016 (arXiv 1609.04468), section 2.1.
    """
    chex.assert_equal_shape([a, b])
    squares_a, squares_b = (jnp.sum(jnp.square(x), axis=-1, keepdims=True) for x in (a, b))
    nonzero = (squares_a > 0) & (squares_b > 0)
    norms = jnp.sqrt(jnp.where(nonzero, squares_a, 1.0)) * jnp.sqrt(jnp.where(nonzero, squares_b, 1.0))
    cosine = jnp.sum(a * b, axis=-1, keepdims=True) / norms
    # Nearer to ±1 than this a float32 cosine has lost the angle, and arc and chord agree to rounding.
    curved = nonzero & (jnp.abs(cosine) < 1.0 - 1e-6)
    angle = jnp.arccos(jnp.where(curved, cosine, 0.0))
    from_a, from_b = (jnp.where(curved, jnp.sin(s * angle) / jnp.sin(angle), s) for s in (1.0 - t, t))
    return from_a * a + from_b * b


def _check_dim(name: str, dim: int) -> None:
    if dim < 1:
        raise ValueError(f"{name}(dim={dim}) has no coordinates: give a dim of at least 1, such as 64")


LATENTS = {f.__name__: f for f in (normal, uniform, sphere, truncated)}
