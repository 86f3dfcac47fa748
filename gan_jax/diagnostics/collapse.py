"""Mode collapse seen in features: how far generated samples lie apart, and how much of the data they come near."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gan_jax.divergences import energy_kernel
from gan_jax.metrics.coverage import coverage


class Collapse(NamedTuple):
    """Two signs of collapse, each at least 0 and about 1 where samples are like the data; one alone may miss it.

    diversity: 0 where all samples are one point. Noise lies further apart than data and has more than 1; a few points
        far from each other have about 1.
    coverage: next to 0 where all samples are one example of the data. In many dimensions one point at its mean may have
        1, as it lies nearer to most examples than they do to each other.
    """

    diversity: float
    coverage: float


def collapse(real: Float[np.ndarray, "N F"], fake: Float[np.ndarray, "M F"], *, neighbours: int = 5) -> Collapse:
    """Compare the spread of generated features with the data's, on the host.

    Diversity is the mean distance between two generated samples over that between two real ones. Coverage is that of
    Naeem et al. 2020 (arXiv 2002.09797), over its expectation for equal laws,
    1 − (N−1)···(N−k) / ((N+M−1)···(N+M−k)).

    Args:
        real: features [N, F]; the cost is O((N² + NM + M²)·F), so a thousand or two are plenty.
        fake: features [M, F] of generated samples.
        neighbours: k, of the balls around real samples.

    Raises:
        ValueError: as `coverage` does for features that do not fit, or real features that are all the same.
    """
    near = coverage(real, fake, neighbours=neighbours).coverage
    own = float(spread(jnp.asarray(real)))
    if own == 0:
        raise ValueError(f"the {len(real)} real samples have the same features: there is no spread to compare with")
    n, m = len(real), len(fake)
    missed = math.prod((n - j) / (n + m - j) for j in range(1, neighbours + 1))
    return Collapse(float(spread(jnp.asarray(fake))) / own, near / (1 - missed))


def spread(points: Float[Array, "N F"]) -> Float[Array, ""]:
    """Return the mean Euclidean distance over all pairs of different samples, N at least 2; it may be traced."""
    n = len(points)
    return jnp.sum(-energy_kernel()(points, points)) / (n * (n - 1))
