"""The Fréchet distance between Gaussians fitted to two sets of features, and the moments that it takes.

On the host all is float64: `moments` and `distance`. On a device moments are streamed (`empty`, `add`, `merge`, `over`,
and back on the host `finish`), and `between` is the same distance, traced. An accumulator keeps each sum together with
its rounding error, so that in float32 neither many batches nor a common offset of the features cost digits.
"""

from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from gan_jax.metrics._samples import Samples, require_finite, require_samples


class Moments(NamedTuple):
    """The mean [F] and the covariance [F, F] (unbiased) of `count` feature vectors; float64, but on a device."""

    count: int | Array
    mean: Float[Samples, " F"]
    covariance: Float[Samples, "F F"]


class Accumulator(NamedTuple):
    """The sums behind moments, of fixed shapes: a scan's carry. A pair is a number and what rounding took from it.

    count: of vectors. mean: theirs, as a pair. squares: the sum of products of deviations from the mean, as a pair.
    """

    count: Int[Array, ""]
    mean: Float[Array, "2 F"]
    squares: Float[Array, "2 F F"]


def moments(features: Float[np.ndarray, "N F"]) -> Moments:
    """Return the moments of features [N, F].

    Raises:
        ValueError: with fewer than two vectors, or values that are not finite.
    """
    require_samples(2, features=features)
    features = np.asarray(features, np.float64)
    return Moments(len(features), features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def distance(first: Moments, second: Moments) -> float:
    """Return |m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½), at least 0 (Dowson and Landau 1982; Heusel et al. 2017).

    With C = SSᵀ the traces are the least |S₁ − S₂U|² over orthogonal U (Bhatia et al. 2019, arXiv 1712.01504). This
    sum of squares is what is computed: the traces nearly cancel. S is of a symmetric eigendecomposition, so singular
    covariances are no special case. torch-fidelity and torchmetrics mean the same number by FID.

    Raises:
        ValueError: moments of different features, or values that are not finite.
    """
    return float(_distance(np, _exact("first", first), _exact("second", second)))


def between(first: Moments, second: Moments) -> Float[Array, ""]:
    """Return `distance`, traced, in the precision of the moments: for evaluation within a compiled program.

    In float32 it is within 1e-3 of `distance`, relative, down to distances of 1e-3 of the covariances' trace. It is a
    measure and no loss: slopes of eigenvectors are not finite where eigenvalues meet.

    Raises:
        ValueError: moments of different features.
    """
    with jax.default_matmul_precision("highest"):
        return _distance(jnp, *(jax.tree.map(jnp.asarray, given) for given in (first, second)))


def _exact(which: str, given: Moments) -> Moments:
    mean, covariance = np.asarray(given.mean, np.float64), np.asarray(given.covariance, np.float64)
    require_finite(**{f"the mean of the {which}": mean, f"the covariance of the {which}": covariance})
    return Moments(given.count, mean, covariance)


def _distance(xp: ModuleType, first: Moments, second: Moments) -> Any:
    """Compute the distance in an array namespace, NumPy's or JAX's."""
    if first.mean.shape != second.mean.shape:
        sizes = f"the first moments are of {len(first.mean)} features, the second of {len(second.mean)}"
        raise ValueError(f"{sizes}: give features of one extractor")

    def factor(covariance: Any) -> Any:
        values, vectors = xp.linalg.eigh(covariance)
        return vectors * xp.sqrt(xp.maximum(values, 0.0))[None, :]

    one, other = factor(first.covariance), factor(second.covariance)
    left, _, right = xp.linalg.svd(other.T @ one)
    return xp.square(first.mean - second.mean).sum() + xp.square(one - other @ (left @ right)).sum()


def empty(features: int, dtype: DTypeLike = jnp.float32) -> Accumulator:
    """Return the accumulator of no vectors of so many features."""
    return Accumulator(jnp.int32(0), jnp.zeros((2, features), dtype), jnp.zeros((2, features, features), dtype))


def add(accumulator: Accumulator, features: Float[Array, "B F"]) -> Accumulator:
    """Take in a batch of features [B, F], in the accumulator's precision.

    Raises:
        ValueError: an empty batch, another number of features, or, unless traced, values that are not finite.
    """
    require_samples(accumulator=accumulator.mean, features=features)
    features = jnp.asarray(features, accumulator.mean.dtype)
    # Any centre near the mean does, to rounding: what it is off by is small, hence known to more digits.
    centre = jnp.mean(features, axis=0)
    deviations = features - centre[None, :]
    rest = jnp.mean(deviations, axis=0)
    deviations -= rest[None, :]
    squares = jnp.matmul(deviations.T, deviations, precision=lax.Precision.HIGHEST)
    mean = _sum(_pair(centre), _pair(rest))
    return merge(accumulator, Accumulator(jnp.int32(len(features)), mean, _pair(squares)))


def merge(first: Accumulator, second: Accumulator) -> Accumulator:
    """Return the accumulator of both sets of vectors: associative and symmetric up to rounding.

    Chan et al. 1979 (Stanford, STAN-CS-79-773), in sums that keep their rounding errors.
    """
    count = first.count + second.count
    share = second.count / jnp.maximum(count, 1).astype(first.mean.dtype)
    gap = _sum(second.mean, -first.mean)
    mean = _sum(first.mean, gap * share)
    gap = gap[0] + gap[1]
    apart = first.count * share * gap[:, None] * gap[None, :]
    return Accumulator(count, mean, _sum(_sum(first.squares, second.squares), _pair(apart)))


def over(accumulator: Accumulator, axis_name: str) -> Accumulator:
    """Return the accumulator of the vectors of all devices of the axis `axis_name`: the same on each, to the bit.

    One after the other is sent to all, so that no device holds more than two.
    """
    here = lax.axis_index(axis_name)

    def take(total: Accumulator, device: Array) -> tuple[Accumulator, None]:
        sent = jax.tree.map(lambda leaf: lax.psum(jnp.where(here == device, leaf, 0), axis_name), accumulator)
        return merge(total, sent), None

    start = empty(accumulator.mean.shape[-1], accumulator.mean.dtype)
    return lax.scan(take, start, jnp.arange(lax.axis_size(axis_name)))[0]


def current(accumulator: Accumulator) -> Moments:
    """Return the moments so far, traced, in the accumulator's precision: for `between`. NaN before two vectors."""
    freedom = jnp.maximum(accumulator.count - 1, 0)
    return Moments(accumulator.count, accumulator.mean[0], accumulator.squares[0] / freedom)


def finish(accumulator: Accumulator) -> Moments:
    """Return the moments in float64, on the host.

    Raises:
        ValueError: with fewer than two vectors, or if one of them was not finite.
    """
    count = int(accumulator.count)
    if count < 2:
        raise ValueError(f"features has {count} samples: give at least 2")
    mean, squares = (np.asarray(pair, np.float64).sum(axis=0) for pair in accumulator[1:])
    require_finite(features=squares)
    return Moments(count, mean, squares / (count - 1))


def _pair(number: Array) -> Array:
    return jnp.stack([number, jnp.zeros_like(number)])


def _sum(first: Array, second: Array) -> Array:
    """Add pairs [2, ...]; the error of the rounded sum is exact (Knuth's two-sum), and is kept."""
    total = first[0] + second[0]
    part = total - first[0]
    error = (first[0] - (total - part)) + (second[0] - part) + (first[1] + second[1])
    high = total + error
    return jnp.stack([high, error - (high - total)])
