"""Integral probability metrics, on samples: Wasserstein-1, maximum mean discrepancy, energy distance."""

from collections.abc import Callable

import chex
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gan_jax.arithmetic import Scalar, require_positive, safe_sqrt

Kernel = Callable[[Float[Array, "N D"], Float[Array, "M D"]], Float[Array, "N M"]]


def wasserstein_1d(x: Float[Array, " N"], y: Float[Array, " M"]) -> Float[Array, ""]:
    """Compute the Wasserstein-1 distance of two samples on the line, exactly: ∫|F_x − F_y|.

    With as many points on both sides it is the mean of |x₍ᵢ₎ − y₍ᵢ₎| over the sorted samples. Its slope is that of the
    transport, ±1/N at each point, at any distance.

    Args:
        x: points [N].
        y: points [M]; of any other number than N.

    Raises:
        ValueError: an empty sample.
    """
    chex.assert_rank([x, y], 1)
    _require_points(1, x, y)
    x, y = jnp.sort(x), jnp.sort(y)
    both = jnp.sort(jnp.concatenate([x, y]))
    # Between two neighbours of the merged sample both distribution functions are constant.
    above, below = (jnp.searchsorted(side, both[:-1], side="right") / len(side) for side in (x, y))
    return jnp.sum(jnp.abs(above - below) * jnp.diff(both))


def kantorovich_rubinstein(
    real: Float[Array, " N"], fake: Float[Array, " M"], lipschitz: Scalar = 1.0
) -> Float[Array, ""]:
    """Compute the dual value (E_p h − E_q h)/‖h‖_L from outputs of a critic h: at most W₁(p, q).

    Args:
        real: outputs [N] under p.
        fake: outputs [M] under q.
        lipschitz: the critic's Lipschitz constant. That of `lipschitz` over all points of both samples makes this a
            lower bound of the distance between the samples.

    Raises:
        ValueError: a Lipschitz constant that is not positive and finite.

    Villani 2009, theorem 5.10 and its particular case 5.16; Arjovsky et al. 2017 (arXiv 1701.07875), eq. 2.
    """
    chex.assert_rank([real, fake], 1)
    require_positive(lipschitz=lipschitz)
    return (jnp.mean(real) - jnp.mean(fake)) / lipschitz


def lipschitz(points: Float[Array, "N D"], values: Float[Array, " N"]) -> Float[Array, ""]:
    """Estimate a critic's Lipschitz constant from below: its steepest chord, |hᵢ − hⱼ| / ‖xᵢ − xⱼ‖ at its largest.

    Pairs of equal points are left out. Some function with this constant has these values (McShane's extension).

    Args:
        points: [N, D].
        values: of the critic at the points, [N].
    """
    chex.assert_rank([points, values], [2, 1])
    squares = _squared_distances(points, points)
    rises = jnp.abs(values[:, None] - values[None, :])
    return jnp.max(jnp.where(squares > 0, rises / safe_sqrt(squares, otherwise=1.0), 0.0))


def gaussian_kernel(bandwidth: Scalar = 1.0) -> Kernel:
    """Make k(x, y) = exp(−‖x − y‖² / (2σ²)) of a bandwidth σ.

    Raises:
        ValueError: a bandwidth that is not positive and finite.
    """
    require_positive(bandwidth=bandwidth)
    return lambda x, y: jnp.exp(-_squared_distances(x, y) / (2.0 * jnp.square(bandwidth)))


def rational_quadratic_kernel(shape: Scalar = 1.0) -> Kernel:
    """Make k(x, y) = (1 + ‖x − y‖² / (2α))^(−α) of a shape α: a mixture of Gaussian kernels of all bandwidths.

    Raises:
        ValueError: a shape that is not positive and finite.

    Bińkowski et al. 2018 (arXiv 1801.01401).
    """
    require_positive(shape=shape)
    return lambda x, y: jnp.exp(-shape * jnp.log1p(_squared_distances(x, y) / (2.0 * shape)))


def energy_kernel() -> Kernel:
    """Make k(x, y) = −‖x − y‖, conditionally positive definite; its slope is zero between equal points.

    Sejdinovic et al. 2013 (arXiv 1207.6076).
    """
    return lambda x, y: -safe_sqrt(_squared_distances(x, y))


def polynomial_kernel(degree: int = 3) -> Kernel:
    """Make k(x, y) = (x·y/D + 1)^degree, which compares moments up to that order.

    Raises:
        ValueError: a degree that is not positive and finite.

    Bińkowski et al. 2018 (arXiv 1801.01401), whose KID is that of degree 3.
    """
    require_positive(degree=degree)
    return lambda x, y: (jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST) / x.shape[1] + 1.0) ** degree


# Of differences: blind to where the origin is, as the polynomial kernel is not.
KERNELS = {f.__name__: f for f in (gaussian_kernel, rational_quadratic_kernel, energy_kernel)}


def maximum_mean_discrepancy(
    x: Float[Array, "N D"], y: Float[Array, "M D"], kernel: Kernel, *, unbiased: bool = True
) -> Float[Array, ""]:
    """Estimate MMD²(p, q) = E k(x, x') + E k(y, y') − 2 E k(x, y) from samples.

    Args:
        x: points [N, D].
        y: points [M, D].
        kernel: `([N, D], [M, D]) -> [N, M]`.
        unbiased: leave out the pairs of a point with itself. The mean over samples is then MMD² itself, and one
            estimate may be negative. The biased one is never, and is the distance between the samples.

    Raises:
        ValueError: too few points: an unbiased estimate takes two on each side.

    Gretton et al. 2012 (JMLR 13), eqs. 3 and 5.
    """
    chex.assert_rank([x, y], 2)
    chex.assert_equal(x.shape[1], y.shape[1])
    _require_points(2 if unbiased else 1, x, y)

    def within(points: Array) -> Array:
        gram, n = kernel(points, points), len(points)
        return jnp.sum(gram, where=~np.eye(n, dtype=bool)) / (n * (n - 1)) if unbiased else jnp.mean(gram)

    return within(x) + within(y) - 2.0 * jnp.mean(kernel(x, y))


def energy_distance(x: Float[Array, "N D"], y: Float[Array, "M D"], *, unbiased: bool = True) -> Float[Array, ""]:
    """Estimate 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ from samples: MMD² of the energy kernel.

    Args:
        x: points [N, D].
        y: points [M, D].
        unbiased: as in `maximum_mean_discrepancy`.

    Raises:
        ValueError: too few points.

    Székely & Rizzo 2013 (Journal of Statistical Planning and Inference 143).
    """
    return maximum_mean_discrepancy(x, y, energy_kernel(), unbiased=unbiased)


def _squared_distances(x: Float[Array, "N D"], y: Float[Array, "M D"]) -> Float[Array, "N M"]:
    # Of differences, which XLA fuses into the sum: ‖x‖² + ‖y‖² − 2xy cancels, and its zeros are none.
    return jnp.sum(jnp.square(x[:, None, :] - y[None, :, :]), axis=-1)


def _require_points(least: int, *samples: Array) -> None:
    for sample in samples:
        if len(sample) < least:
            raise ValueError(f"a sample of {len(sample)} points is too small: give at least {least}")
