"""How much of what is generated looks real, and how much of what is real is generated, by nearest neighbours."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from gan_jax.metrics._neighbours import centred, in_blocks, squared_distances
from gan_jax.metrics._samples import require_samples


class Coverage(NamedTuple):
    """Shares in [0, 1]; density is at least 0 and has mean 1 where the laws are equal.

    precision: of generated samples in the ball of some real one. recall: of real samples in the ball of some
        generated one. density: the number of real balls that a generated sample is in, on average, over the number of
        neighbours. coverage: of real samples with a generated one in their ball.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Float[np.ndarray, "N F"], fake: Float[np.ndarray, "M _F"], *, neighbours: int = 5) -> Coverage:
    """Compare the supports of two sets of features.

    The ball of a sample reaches to its k-th nearest neighbour in its own set, itself not counted. Balls are closed
    (Kynkäänniemi et al., eq. 1), to rounding: a copy of the neighbour on the sphere is inside, and copies of one
    sample are neighbours at distance 0. torch-fidelity does the same; the code of Naeem et al. has open balls.
    Precision and recall were published with k = 3, density and coverage with k = 5.

    For equal laws E[coverage] = 1 − (N−1)···(N−k) / ((N+M−1)···(N+M−k)): choose k for this to be near 1. Precision and
    recall have no such law, and outliers enlarge them.

    Distances are float64, on the device: the four numbers are counts, and the same wherever they are computed.

    Args:
        real: features [N, F].
        fake: features [M, F] of generated samples.
        neighbours: k.

    Raises:
        ValueError: neighbours below 1, or more than either set has; features that differ in number or are not finite.

    Kynkäänniemi et al. 2019 (arXiv 1904.06991); Naeem et al. 2020 (arXiv 2002.09797).
    """
    if neighbours < 1:
        raise ValueError(f"neighbours={neighbours}: give at least 1")
    require_samples(neighbours + 1, real=real, fake=fake)
    with jax.enable_x64(True):
        held, recalled, covered = map(np.asarray, _coverage(*centred(real, fake), neighbours))
    return Coverage(
        precision=float(np.mean(held > 0)),
        recall=float(np.mean(recalled)),
        density=float(np.mean(held) / neighbours),
        coverage=float(np.mean(covered)),
    )


@jax.jit
def _coverage(real: Float[Array, "N F"], fake: Float[Array, "M F"], neighbours: Array) -> tuple[Array, Array, Array]:
    """Count the real balls that hold each fake; say of each real if a ball of a fake holds it, and its own a fake."""
    real_radii, fake_radii = (_squared_radii(points, neighbours) for points in (real, fake))

    def among_fakes(point: Float[Array, " F"], own: Float[Array, ""]) -> tuple[Array, Array]:
        return jnp.any(_near(point, fake, fake_radii)), jnp.any(_near(point, fake, own))

    held = in_blocks(lambda point: jnp.sum(_near(point, real, real_radii)), fake)
    return held, *in_blocks(among_fakes, real, real_radii)


def _near(point: Float[Array, " F"], others: Float[Array, "N F"], squared_radii: Array) -> Bool[Array, " N"]:
    squares, rounding = squared_distances(point, others)
    return squares <= squared_radii + 2.0 * rounding  # the radius is such a distance too


def _squared_radii(points: Float[Array, "N F"], neighbours: Array) -> Float[Array, " N"]:
    def radius(point: Float[Array, " F"]) -> Float[Array, ""]:
        squares, _ = squared_distances(point, points)

        # The next larger distance until so many are no larger: a few passes, where XLA's top_k sorts.
        def next_larger(_: Array, least: Array) -> Array:
            enough = jnp.sum(squares <= least) > neighbours  # the point itself is among them
            return jnp.where(enough, least, jnp.min(squares, where=squares > least, initial=jnp.inf))

        return lax.fori_loop(0, neighbours, next_larger, jnp.min(squares))

    return in_blocks(radius, points)
