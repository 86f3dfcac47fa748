"""The sliced Wasserstein distance: that of all projections onto a line, which is exact on samples."""

import math

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from gan_jax import latents
from gan_jax.base import Key
from gan_jax.divergences.integral import wasserstein_1d
from gan_jax.metrics._neighbours import in_blocks
from gan_jax.metrics._samples import Samples, require_samples


def distance(
    key: Key, x: Float[Samples, "N D"], y: Float[Samples, "M _D"], *, directions: int = 256
) -> Float[Array, ""]:
    """Estimate E W₁(θ·x, θ·y) over directions θ, uniform on the sphere, traced.

    The distance of order 1: it is exact for any two sizes of samples, and in the units of the samples. (Libraries
    that take order 2 print another number.)

    Args:
        key: of the directions.
        x: samples [N, D].
        y: samples [M, D].
        directions: how many are drawn. The error of their mean falls with √directions.

    Raises:
        ValueError: no directions, or samples that differ in D or, unless traced, are not finite.

    Rabin et al. 2011 (SSVM); Bonneel et al. 2015 (Journal of Mathematical Imaging and Vision 51).
    """
    require_samples(x=x, y=y)
    if directions < 1:
        raise ValueError(f"directions={directions}: give at least 1")
    x, y = jnp.asarray(x), jnp.asarray(y)
    dim = x.shape[1]

    def along(direction: Float[Array, " D"]) -> Float[Array, ""]:
        return wasserstein_1d(*(jnp.matmul(side, direction, precision=lax.Precision.HIGHEST) for side in (x, y)))

    return jnp.mean(in_blocks(along, latents.sphere(dim)(key, directions) / math.sqrt(dim)))
