"""The Fréchet distance between Gaussians fitted to two sets of features.

Statistics are sums over features, so they accumulate over batches; everything is float64 on the
host, because the closed form subtracts numbers that nearly cancel.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Moments(NamedTuple):
    """The mean [F] and the covariance [F, F] (unbiased) of `count` feature vectors, float64."""

    count: int
    mean: Float[np.ndarray, " F"]
    covariance: Float[np.ndarray, "F F"]


def moments(features: Float[np.ndarray, "N F"]) -> Moments:
    """Return the moments of features [N, F].

    Raises:
        ValueError: with fewer than two vectors.
    """
    features = np.asarray(features, np.float64)
    if len(features) < 2:
        raise ValueError(f"{len(features)} samples have no covariance: take at least 2")
    return Moments(len(features), features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)))


def distance(first: Moments, second: Moments) -> float:
    """Return |m₁ − m₂|² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½), at least 0 (Dowson and Landau 1982, eq. 16; Heusel et al. 2017).

    The trace of the root is that of the symmetric (R C₂ R)^½ with R = C₁^½, whose eigenvalues are real: no
    general matrix root is taken, and singular covariances are no special case.
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second.covariance @ root), 0, None)).sum()
    shift = np.square(first.mean - second.mean).sum()
    return max(0.0, float(shift + np.trace(first.covariance) + np.trace(second.covariance) - 2 * cross))
